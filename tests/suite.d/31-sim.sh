#!/bin/sh
# Two hundred simulated hours of bad weather, crashes and failing disks: nothing is lost, and no seed runs otherwise a second time.
set -eu
cd -- "$(dirname -- "$0")/../.."

exec "${WAYPOST_BUILD:-build}/sim" --seeds "${SIM_SEEDS:-200}"
