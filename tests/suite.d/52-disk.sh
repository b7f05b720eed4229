#!/bin/sh
# A disk that is full, and one that fails, under the shipped relay: tests/crash/full.py and faults.py.
set -eu
cd -- "$(dirname -- "$0")/../.."
rc=0
python3 -B tests/crash/full.py || rc=1
python3 -B tests/crash/faults.py || rc=1
exit $rc
