#!/bin/sh
# Delivery reports of the built relay, as Python's email package reads them: every field, every class of failure, delays, expiry, UTF-8.
cd -- "$(dirname -- "$0")/../.." && exec python3 -B tests/dsn/dsn.py
