#!/bin/sh
# What an operator does: check, start, reload, restart, ask, stop; on the built relay.
cd -- "$(dirname -- "$0")/../.." && exec python3 tests/ops/ops.py
