#!/bin/sh
# Which classes of attack (named by number in the project's list of sixty) have a test that carries their number: a unit test or seed
# attack_NN_..., a transcript tests/dialogue/attack_NN_*.txt, a function in tests/peers or tests/crash, or a script tests/attacks/NN_*.
# Classes that this release can meet must.
set -eu
cd "$(dirname "$0")/../.."

# What concerns TLS, logins, authentication of mail, HTTP and the like comes with those.
meet="01 02 06 07 09 10 11 12 13 14 17 18 19 20 21 22 23 24 25 26 27 28 30 31 32 33 36 37 49 50 51 52 53 54 55 56 58 60"

names=$({
    grep -rohE --include='*.c' 'TEST\(attack_[0-9][0-9]' src | sed 's/.*(//'
    grep -rohE --include='*.py' 'attack_[0-9][0-9]' tests/peers tests/crash || :
    find tests/dialogue tests/corpus -name 'attack_[0-9][0-9]*' | sed 's|.*/||'
    if [ -d tests/attacks ]; then find tests/attacks -name '[0-9][0-9]_*' | sed 's|.*/|attack_|'; fi
} | sed -E 's/^attack_([0-9][0-9]).*/\1/' | sort -u | tr '\n' ' ')

passed=0 failed=0 missing=''
for n in $meet; do
    case " $names" in
    *" $n "*) passed=$((passed + 1)) ;;
    *) failed=$((failed + 1)) missing="$missing $n" ;;
    esac
done
echo "attack classes with a test of their number: $(echo "$names" | wc -w) of 60, $passed of the $((passed + failed)) that this release can meet"
[ -z "$missing" ] || echo "missing:$missing"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
