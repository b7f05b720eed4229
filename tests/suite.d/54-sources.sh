#!/bin/sh
# Source addresses, pools and rates of the built relay, seen from the servers that get its mail.
cd -- "$(dirname -- "$0")/../.." && exec timeout 240 python3 -B tests/ops/sources.py
