#!/bin/sh
# waypost spool: bench fills a spool, verify reads it, export and import carry what waits from one to another.
set -eu
cd -- "$(dirname -- "$0")/../.."
waypost=${WAYPOST_BUILD:-build}/waypost
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

passed=0
fail() { echo "FAIL $*"; echo "$passed passed, 1 failed"; exit 1; }
ok() { passed=$((passed + 1)); }
code() { want=$1; shift; got=0; "$@" > "$dir/out" 2> "$dir/err" || got=$?; [ "$got" = "$want" ] || { cat "$dir/out" "$dir/err"; fail "exit code $got instead of $want: $*"; }; ok; }

code 2 "$waypost" spool
code 2 "$waypost" spool polish "$dir"
code 2 "$waypost" spool bench "$dir/s" --size never
code 1 "$waypost" spool verify "$dir/none"
code 1 "$waypost" spool export "$dir/none"
code 0 "$waypost" spool --help
grep -q 'spool verify DIR' "$dir/out" || fail "help"; ok

code 0 "$waypost" spool bench "$dir/s" --time 300ms --size 2k --tasks 8
grep -q '^messages ' "$dir/out" || fail "bench says nothing"; ok
code 0 "$waypost" spool verify "$dir/s"
grep -q ' 0 places damaged' "$dir/out" || fail "verify"; ok
state() { find "$1" -type f -printf '%p %s %T@\n' | sort; }
before=$(state "$dir/s")
code 0 "$waypost" spool verify "$dir/s"
[ "$before" = "$(state "$dir/s")" ] || fail "verify changed something"; ok

# What is exported is imported, and exported again it is the same.
code 0 "$waypost" spool bench "$dir/s" --time 200ms --tasks 4 --keep 25
code 0 "$waypost" spool export "$dir/s"; cp "$dir/out" "$dir/one"
grep -q '^25 messages' "$dir/err" || fail "export: $(cat "$dir/err")"; ok
# shellcheck disable=SC2016 # the inner shell's words
code 0 sh -c '"$1" spool import "$2" < "$3"' sh "$waypost" "$dir/t" "$dir/one"
grep -q '^25 messages' "$dir/err" || fail "import: $(cat "$dir/err")"; ok
code 0 "$waypost" spool verify "$dir/t"
grep -q ' 25 of them waiting' "$dir/out" || fail "what was imported does not wait: $(cat "$dir/out")"; ok
code 0 "$waypost" spool export "$dir/t"
cmp -s "$dir/out" "$dir/one" || fail "it changed on the way"; ok
# shellcheck disable=SC2016
code 1 sh -c 'head -c 9000 "$3" | "$1" spool import "$2"' sh "$waypost" "$dir/u" "$dir/one"
# shellcheck disable=SC2016
code 1 sh -c 'echo hello, hello | "$1" spool import "$2"' sh "$waypost" "$dir/u"

# A damaged body is found and named.
seg=$(find "$dir/t" -name "*.seg" | sort | head -1)
printf 'XXXX' | dd of="$seg" bs=1 seek=6000 conv=notrunc 2> /dev/null
code 1 "$waypost" spool verify "$dir/t"
grep -q 'are damaged' "$dir/out" || fail "damage is not told"; ok
grep -q 'octets of its body' "$dir/out" || fail "the message is not named"; ok
echo "$passed passed, 0 failed"
