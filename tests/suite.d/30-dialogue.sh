#!/bin/sh
# Every transcript of tests/dialogue/, against the real session on a clock and network of our own; and every refusal of the sources is in one.
set -eu
cd -- "$(dirname -- "$0")/../.."

heard=$(mktemp)
trap 'rm -f "$heard"' EXIT
counts() { printf '%s\n' "$1" | tail -n 1 | sed 's/ passed, / /; s/ failed//'; }

played=$("${WAYPOST_BUILD:-build}/dialogue" --heard "$heard" tests/dialogue/*.txt) || true
said=$(python3 -B tests/dialogue/refusals.py "$heard") || true
printf '%s\n' "$played" "$said" | grep -v ' passed, ' || true
# shellcheck disable=SC2046 # two numbers each
set -- $(counts "$played") $(counts "$said")
echo "$(($1 + $3)) passed, $(($2 + $4)) failed"
[ "$(($2 + $4))" = 0 ]
