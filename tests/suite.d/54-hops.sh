#!/bin/sh
# LMTP, Unix sockets, and mail that goes another way than its own: on the built relay, with Dovecot beyond where it is installed.
cd -- "$(dirname -- "$0")/../.." && exec timeout 300 python3 -B tests/ops/hops.py
