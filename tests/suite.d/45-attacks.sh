#!/bin/sh
# The scripts of tests/attacks/, each a class of attack: the built relay, and next hops, files and clients that misbehave.
#   45-attacks.sh [NN ...]      only these
set -eu
cd -- "$(dirname -- "$0")/../.."

[ $# -gt 0 ] || set -- ''
passed=0 failed=0
for which do
    for script in tests/attacks/"$which"*_*.py; do
        if said=$(timeout 300 python3 -B "$script" 2>&1); then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            printf 'FAIL %s\n%s\n' "$script" "$said"
        fi
    done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
