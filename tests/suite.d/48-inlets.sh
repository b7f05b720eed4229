#!/bin/sh
# Ways in besides the plain listener, on the built relay: behind proxies, from programs of this machine, by sockets bound elsewhere.
set -eu
cd -- "$(dirname -- "$0")/../.."

passed=0 failed=0
for script in proxy sendmail activation gateway; do
    if said=$(timeout 300 python3 -B "tests/inlets/$script.py" 2>&1); then
        counts=$(printf '%s\n' "$said" | tail -n 1)
        passed=$((passed + ${counts%% *}))
    else
        failed=$((failed + 1))
        printf 'FAIL tests/inlets/%s.py\n%s\n' "$script" "$said"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
