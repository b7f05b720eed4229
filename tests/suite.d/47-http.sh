#!/bin/sh
# Metrics and probes over HTTP, the dashboard and the alert rules, on the built relay in its sandbox.
cd -- "$(dirname -- "$0")/../.." && exec python3 -B tests/api/http.py
