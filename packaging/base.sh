#!/bin/sh
# A bare Debian 12 with the packages named, as a root folder to be copied; prints its path. Made once of Debian's own packages, as apt's
# configuration names their place, and kept: build-peers/base-KEY. Needs root.
set -eu
cd -- "$(dirname -- "$0")/.."

[ $# -gt 0 ] || { echo "base.sh PACKAGE..." >&2; exit 2; }
words=$(printf '%s\n' "$@" | sort | tr '\n' ',')
base=$PWD/build-peers/base-$( (cat packaging/base.sh; echo "$words") | cksum | cut -d ' ' -f 1)
if [ ! -d "$base" ]; then
    mkdir -p build-peers
    rm -rf build-peers/base-*
    from=$(apt-get indextargets --format "\$(REPO_URI)" 'Identifier: Packages' 'Component: main' 'Release: bookworm' | head -n 1)
    [ -n "$from" ] || { echo "base.sh: apt knows no place that has Debian 12 (\"bookworm\", main)" >&2; exit 1; }
    mmdebstrap --quiet --variant=essential --include="${words%,}" --dpkgopt=force-unsafe-io --aptopt='Acquire::Languages "none"' \
        bookworm "$base.new" "deb $from bookworm main" >&2
    rm -rf "$base.new/usr/share/doc" "$base.new/usr/share/man" "$base.new/usr/share/locale" "$base.new/usr/share/info"
    mv "$base.new" "$base"
fi
echo "$base"
