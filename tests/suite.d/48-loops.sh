#!/bin/sh
# Mail that comes round, and mail that only seems to: relays that are each other's next hop.
cd -- "$(dirname -- "$0")/../.." && exec python3 -B tests/loops/loops.py
