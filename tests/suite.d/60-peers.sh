#!/bin/sh
# Postfix, Exim and OpenSMTPD as our clients and as our next hops.
set -eu
cd -- "$(dirname -- "$0")/../.."
exec python3 tests/peers/peers.py "$@"
