#!/bin/sh
# Make Debian packages of what is built: build-package/waypost_VERSION_ARCH.deb and waypost-sendmail_VERSION_all.deb, ready for
# `apt install ./FILE`. VERSION is meson's unless given. The same commit and tools make the same octets: SOURCE_DATE_EPOCH is the
# commit's unless it is set.
#
# Plain dpkg-dev: dpkg-shlibdeps finds what the program needs, dpkg-gencontrol fills packaging/debian/control in, dpkg-deb packs.
set -eu
cd -- "$(dirname -- "$0")/.."

build=${WAYPOST_BUILD:-build}
out=$PWD/build-package
version=${1:-$(meson introspect --projectinfo "$build" | sed 's/.*"version": "\([^"]*\)".*/\1/')}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8
umask 022

put() { # MODE FROM TO
    install -D -m "$1" "$2" "$root$3"
}

put_gz() { # FROM TO
    mkdir -p "$(dirname "$root$2")"
    gzip -9n <"$1" >"$root$2.gz"
}

documents() { # PACKAGE
    put 644 packaging/debian/copyright "/usr/share/doc/$1/copyright"
    put_gz "$work/changelog" "/usr/share/doc/$1/changelog"
}

# Everything is root's; what is another's is given away by the postinst.
pack() { # PACKAGE [OPTION]
    for script in preinst postinst prerm postrm; do
        [ ! -f "packaging/debian/$1.$script" ] || put 755 "packaging/debian/$1.$script" "/DEBIAN/$script"
    done
    (cd "$root" && find etc -type f -printf '/%p\n') | sort >"$root/DEBIAN/conffiles"
    (cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    chmod -R u+rwX,go+rX,go-w "$root"
    dpkg-gencontrol -p"$1" -cpackaging/debian/control -l"$work/changelog" -f"$work/files" -P"$root" ${2:+"$2"}
    # What a package of the same name holds from another version would be taken for this one's.
    rm -f "$out/$1"_*.deb
    dpkg-deb --root-owner-group -Zxz --build "$root" "$out" >/dev/null
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/debian"
cp packaging/debian/control "$work/debian/control"
cat >"$work/changelog" <<END
waypost ($version) unstable; urgency=medium

  * Made of commit $(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown); its history tells what changed.

 -- $(sed -n 's/^Maintainer: //p' packaging/debian/control)  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END

# ---- waypost ----

root=$work/waypost
mkdir -p "$root/DEBIAN"
put 755 "$build/waypost" /usr/bin/waypost
strip --remove-section=.comment --remove-section=.note "$root/usr/bin/waypost"
put_gz man/waypost.8 /usr/share/man/man8/waypost.8
put_gz man/waypost-sendmail.1 /usr/share/man/man1/waypost-sendmail.1
"$build/waypost" config manual >"$work/waypost.conf.5"
put_gz "$work/waypost.conf.5" /usr/share/man/man5/waypost.conf.5
"$build/waypost" completion bash >"$work/completion"
put 644 "$work/completion" /usr/share/bash-completion/completions/waypost
"$build/waypost" completion zsh >"$work/completion"
put 644 "$work/completion" /usr/share/zsh/vendor-completions/_waypost
"$build/waypost" completion fish >"$work/completion"
put 644 "$work/completion" /usr/share/fish/vendor_completions.d/waypost.fish
put 644 packaging/waypost.service /lib/systemd/system/waypost.service
put 644 packaging/waypost.sysctl.conf /usr/lib/sysctl.d/50-waypost.conf
put 644 packaging/debian/waypost.conf /etc/waypost/waypost.conf
mkdir -p "$root/etc/waypost/conf.d"
for example in examples/* packaging/waypost.socket packaging/grafana/waypost.json packaging/prometheus/alerts.yml; do
    put 644 "$example" "/usr/share/doc/waypost/examples/$(basename "$example")"
done
for text in README.md doc/inlets.md doc/process.md doc/spool.md; do
    put_gz "$text" "/usr/share/doc/waypost/$(basename "$text")"
done
documents waypost
(cd "$work" && dpkg-shlibdeps --warnings=0 -Tsubstvars -ewaypost/usr/bin/waypost)
pack waypost -T"$work/substvars"

# ---- waypost-sendmail ----

root=$work/waypost-sendmail
mkdir -p "$root/DEBIAN" "$root/usr/sbin" "$root/usr/bin" "$root/usr/lib" "$root/usr/share/man/man1"
ln -s ../bin/waypost "$root/usr/sbin/sendmail"
ln -s ../sbin/sendmail "$root/usr/lib/sendmail"
ln -s waypost "$root/usr/bin/mailq"
ln -s waypost "$root/usr/bin/newaliases"
for name in sendmail mailq newaliases; do
    ln -s waypost-sendmail.1.gz "$root/usr/share/man/man1/$name.1.gz"
done
put 644 packaging/debian/sendmail.conf /etc/waypost/conf.d/sendmail.conf
documents waypost-sendmail
pack waypost-sendmail

ls -1 "$out"/*.deb
