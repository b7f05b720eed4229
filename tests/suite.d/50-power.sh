#!/bin/sh
# The power is cut at five hundred places of a loaded relay's life, and the disk keeps any of what was not synced: tests/crash/.
set -eu
cd -- "$(dirname -- "$0")/../.."
exec python3 -B tests/crash/power.py "${CRASH_CUTS:-500}" 4
