#!/bin/sh
# Three servers behind the built relay: how they share the mail, and what happens when one fails.
cd -- "$(dirname -- "$0")/../.." && exec python3 tests/ops/balance.py
