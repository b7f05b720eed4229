#!/bin/sh
# Fetch the mail servers that the tests speak with: Postfix, Exim and OpenSMTPD, each unpacked into a root folder of its
# own, build-peers/NAME, since as Debian packages they exclude one another. Nothing is installed, no service starts. The
# packages are kept in build-peers/debs, so that from then on no network is needed.
#
# A root holds what the server's packages hold, the libraries it needs (from packages where this system has them not,
# else copied from the system), and users of its own: the tests chroot into a copy.
set -eu
cd -- "$(dirname -- "$0")/.."

top=build-peers
debs=$top/debs

say() { printf '%s\n' "peers: $*"; }

if ! command -v dpkg-deb >/dev/null || ! command -v apt-get >/dev/null; then
    say "no Debian here: none fetched"
    exit 0
fi

# Run as root where that can be: only for refreshing apt's lists.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else return 1; fi
}

fetch() { # PACKAGE
    for deb in "$debs/$1"_*.deb; do
        [ ! -f "$deb" ] || return 0
    done
    say "fetching $1"
    mkdir -p "$debs/new"
    download "$1" || { as_root apt-get -qq update && download "$1"; } || { say "cannot fetch $1"; return 1; }
    mv "$debs/new/"*.deb "$debs/"
}

download() { # PACKAGE
    (cd "$debs/new" && apt-get -qq -o APT::Sandbox::User=root download "$1")
}

installed() {
    # shellcheck disable=SC2016 # dpkg's variable, not ours
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Unpack a package, and the libraries it depends on that this system has not.
unpack() { # ROOT PACKAGE
    [ ! -e "$1/.has-$2" ] || return 0
    touch "$1/.has-$2"
    fetch "$2"
    for deb in "$debs/$2"_*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$1"
    done
    for library in $(dpkg-deb -f "$deb" Depends Pre-Depends | sed -e 's/^[A-Za-z-]*: //' -e 's/, */\n/g' |
        sed -n 's/^\(lib[^ :|]*\).*/\1/p'); do
        installed "$library" || (unpack "$1" "$library")
    done
}

# Copy the system's libraries that the programs of a root are still lacking.
fill() { # ROOT
    private=$(find "$PWD/$1/usr/lib" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
    find "$1/usr" -type f \( -perm -u+x -o -name '*.so*' \) | while read -r program; do
        LD_LIBRARY_PATH=$private ldd "$program" 2>/dev/null || true
    done | sed -n -e 's/.*=> \(\/[^ ]*\) (.*/\1/p' -e 's/^[[:space:]]*\(\/[^ ]*ld-linux[^ ]*\) (.*/\1/p' | sort -u |
        while read -r library; do
            case $library in "$PWD/$1"/*) continue ;; esac
            mkdir -p "$1$(dirname "$library")"
            [ -e "$1$library" ] || [ -L "$1$library" ] || cp -L "$library" "$1$library"
        done
}

users() { # ROOT NAME:ID...
    root=$1
    shift
    mkdir -p "$root/etc"
    printf 'root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n' >"$root/etc/passwd"
    printf 'root:x:0:\nmail:x:8:\nnogroup:x:65534:\n' >"$root/etc/group"
    for user; do
        id=${user#*:} user=${user%:*}
        printf '%s:x:%s:%s::/nonexistent:/usr/sbin/nologin\n' "$user" "$id" "$id" >>"$root/etc/passwd"
        printf '%s:x:%s:\n' "$user" "$id" >>"$root/etc/group"
    done
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
    printf 'hosts: files\npasswd: files\ngroup: files\n' >"$root/etc/nsswitch.conf"
    printf 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\nlookup file\n' >"$root/etc/resolv.conf"
    printf 'mail.peer.example\n' >"$root/etc/mailname"
    cp /etc/services /etc/protocols "$root/etc/" 2>/dev/null || true
}

# A root is complete when it was made by this very script.
peer() { # NAME PACKAGE USER:ID...
    name=$1 package=$2
    root=$top/$name
    shift 2
    made=$(cksum <packaging/peers.sh)
    [ "$(cat "$root/.complete" 2>/dev/null)" != "$made" ] || return 0
    say "unpacking $name"
    rm -rf "$root"
    for folder in bin sbin lib lib64; do
        mkdir -p "$root/usr/$folder"
        ln -s "usr/$folder" "$root/$folder"
    done
    mkdir -p "$root/dev" "$root/run" "$root/var/log" "$root/root" "$root/tmp"
    ln -s ../run "$root/var/run"
    chmod 1777 "$root/tmp"
    users "$root" "$@"
    unpack "$root" "$package"
    rm -rf "${root:?}/usr/share"
    fill "$root"
    echo "$made" >"$root/.complete"
}

umask 022
mkdir -p "$debs"
peer postfix postfix postfix:64101 postdrop:64102
peer exim exim4-daemon-light Debian-exim:64103
peer opensmtpd opensmtpd opensmtpd:64104 opensmtpq:64105
rm -rf "$debs/new"
