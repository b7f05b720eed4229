#!/bin/sh
# Every transcript of tests/dialogue/, against the real session on a clock and network of our own.
set -eu
cd -- "$(dirname -- "$0")/../.."

exec "${WAYPOST_BUILD:-build}/dialogue" tests/dialogue/*.txt
