#!/bin/sh
# swaks, msmtp, curl and smtplib as our clients.
set -eu
cd -- "$(dirname -- "$0")/../.."
exec python3 tests/peers/clients.py "$@"
