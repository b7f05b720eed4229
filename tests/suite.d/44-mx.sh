#!/bin/sh
# Mail by MX records: a real name server, next hops and the relay in network namespaces of their own.
cd -- "$(dirname -- "$0")/../.." && exec timeout 300 python3 -B tests/dns/mx.py
