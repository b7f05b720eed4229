#!/bin/sh
# What an operator sees of the built relay: metrics and probes over HTTP with the dashboard and the alert rules, `waypost top` and the trace store.
set -eu
cd -- "$(dirname -- "$0")/../.."
rc=0
for script in http top trace; do
    python3 -B tests/api/$script.py || rc=1
done
exit $rc
