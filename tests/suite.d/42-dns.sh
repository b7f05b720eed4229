#!/bin/sh
# Names: the built relay against name servers on loopback, honest ones and others.
cd -- "$(dirname -- "$0")/../.." && exec timeout 600 python3 -B tests/dns/dns.py
