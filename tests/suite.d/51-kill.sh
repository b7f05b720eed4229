#!/bin/sh
# kill -9 under load, fifty times and more: tests/crash/kill.py.
set -eu
cd -- "$(dirname -- "$0")/../.."
exec python3 -B tests/crash/kill.py "${CRASH_KILLS:-50}"
