#!/bin/sh
# What `waypost check` finds out beyond the file: servers, sources of recipients, names, what the relay's user may read.
cd -- "$(dirname -- "$0")/../.." && exec python3 -B tests/ops/check.py
