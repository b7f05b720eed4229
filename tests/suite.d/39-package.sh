#!/bin/sh
# Debian's packages of the relay: made, installed in a bare Debian 12, run as their unit says, upgraded, removed, purged.
cd -- "$(dirname -- "$0")/../.." && exec timeout 600 python3 -B tests/package/package.py
