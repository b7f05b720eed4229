#!/bin/sh
# The main job before your eyes: a relay on embedded defaults, a relay domain with two next hops, one of which dies under load.
#   tests/demo.sh [--once]      WAYPOST_BUILD: where waypost is (default build); --once ends by itself
set -eu

cd "$(dirname "$0")/.."
waypost=${WAYPOST_BUILD:-build}/waypost
once=no
[ "${1:-}" = --once ] && once=yes

dir=$(mktemp -d "${TMPDIR:-/tmp}/waypost-demo.XXXXXX")
export WAYPOST_DEV_DIR="$dir"
control=$dir/control.sock
one='' two='' relay=''

finish()
{
    trap - EXIT INT TERM
    for pid in $relay $one $two; do
        kill "$pid" 2>/dev/null || :
    done
    for pid in $relay $one $two; do
        wait "$pid" 2>/dev/null || :
    done
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '%s\n' "$*"; }
die()
{
    say "demo: $*" >&2
    [ -f "$dir/relay.log" ] && tail -n 20 "$dir/relay.log" >&2
    exit 1
}

# A number out of the relay's JSON: stat counters.delivered
stat()
{
    "$waypost" stats --json --socket "$control" | python3 -c '
import json, sys
v = json.load(sys.stdin)
for key in sys.argv[1].split("."):
    v = v[key]
print(v)' "$1"
}

# Wait, for at most so many seconds, until a command succeeds.
until_true()
{
    left=$(($1 * 20))
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.05
    done
}

# A signal to a background process that has not yet become the program would be lost: wait until it speaks.
sink()
{
    "$waypost" sink -l "127.0.0.1:$1" --unique --json >"$dir/sink$1.json" 2>"$dir/sink$1.log" &
    until_true 10 grep -q listening "$dir/sink$1.log" || die "no server could be started on port $1"
}
waiting_none() { [ "$(stat queue.messages)" = 0 ]; }
all_settled() { [ "$(($(stat counters.delivered) + $(stat counters.unknown)))" -ge "$1" ]; }
delivered_some() { [ "$(stat counters.delivered)" -ge "$1" ]; }

sink 2526; one=$!
sink 2527; two=$!
"$waypost" serve --dev >"$dir/relay.log" 2>&1 &
relay=$!
until_true 15 "$waypost" stats --socket "$control" || die "the relay did not start"

say "A relay listens on 127.0.0.1:2525 for example.com; behind it are two servers, 127.0.0.1:2526 and :2527."
"$waypost" blast 127.0.0.1:2525 --sessions 5 --mails 300 --per-session 10 --size 4k --to 'user%d@example.com' --json >"$dir/first.json" \
    || die "not all of the first 300 mails were accepted"
until_true 30 waiting_none || die "mail is still waiting after 30 seconds"
say "300 mails went through it. Each was on disk before it was acknowledged; both servers share them:"
"$waypost" stats --json --socket "$control" | python3 -c '
import json, sys
for s in json.load(sys.stdin)["lanes"][0]["servers"]:
    print("    %-16s %4d mails" % (s["host"], s["delivered"]))'

say "Now 600 more, 300 a second, and in the middle of them the first server is killed."
"$waypost" blast 127.0.0.1:2525 --sessions 5 --mails 600 --per-session 10 --size 4k --rate 300 --to 'user%d@example.com' --json >"$dir/second.json" &
blast=$!
until_true 10 delivered_some 450 || die "nothing is delivered"
kill -KILL "$one"
wait "$one" 2>/dev/null || :
one=
wait "$blast" || die "not all of the 600 mails were accepted: the clients should not have noticed"
until_true 60 all_settled 900 || die "mail is still waiting after 60 seconds"
delivered=$(stat counters.delivered)
unknown=$(stat counters.unknown)
say "The clients saw nothing of it: 600 of 600 accepted."
"$waypost" stats --json --socket "$control" | python3 -c '
import json, sys
for s in json.load(sys.stdin)["lanes"][0]["servers"]:
    print("    %-16s %4d mails, %s" % (s["host"], s["delivered"], {"in": "working", "out": "out: it is tried again by itself", "to be tried": "about to be tried again"}[s["state"]]))'
if [ "$unknown" = 0 ]; then
    say "Of 900 mails 900 were accepted and 900 delivered: none is lost."
else
    say "Of 900 mails 900 were accepted and $delivered delivered; $unknown reached the killed server, whose answer never came: they are kept"
    say "and tried again late, so that nobody gets two without need. None is lost."
fi

sink 2526; one=$!
say "The first server is back; the relay will find it by itself."
say ""
say "Try next:"
say "    $waypost blast 127.0.0.1:2525 --mails 10000 --to 'user%d@example.com'"
say "    $waypost stats --socket $control"
say "    $waypost trace user1@example.com --socket $control"
say "    $waypost queue list --socket $control"
[ "$once" = no ] || exit 0
say ""
say "The relay stays up until Ctrl-C."
wait "$relay"
