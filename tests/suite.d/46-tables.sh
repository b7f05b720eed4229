#!/bin/sh
# Who exists, asked of a directory, a web service, a database, a backend and a list; each of them away for a while.
cd -- "$(dirname -- "$0")/../.." && exec timeout 600 python3 -B tests/tables/tables.py "$@"
