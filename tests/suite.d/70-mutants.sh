#!/bin/sh
# Each way of breaking the product that tests/mutants/ knows must be noticed by a test.
exec "$(dirname "$0")/../mutants/run.py"
