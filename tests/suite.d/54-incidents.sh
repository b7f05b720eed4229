#!/bin/sh
# Trouble that concerns more than one message: mail is kept, told as one incident, and goes when it is over.
cd -- "$(dirname -- "$0")/../.." && exec timeout 300 python3 -B tests/incidents/incidents.py
