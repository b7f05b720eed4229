#!/bin/sh
# Streams: urgent mail does not wait behind bulk, and bulk is not starved.
cd -- "$(dirname -- "$0")/../.." && exec python3 tests/ops/streams.py
