#!/bin/sh
# Tries a Debian package in a root file system of its own: install, look, serve, remove, purge.
#   sh deploy/debian/try.sh target/dist/emberd_*.deb
# Needs root and mmdebstrap; it takes the packages that the host's own sources give. Ends with
# status 77 where that cannot be had, so that a test can say that it skipped.
set -eu

deb="$(realpath "$1")"
[ "$(id -u)" = 0 ] || { echo "skipped: needs root"; exit 77; }
command -v mmdebstrap >/dev/null || { echo "skipped: no mmdebstrap here"; exit 77; }

work="$(mktemp -d)"
root="$work/root"
trap 'rm -rf --one-file-system "$work"' EXIT

fail() { echo "failed: $*" >&2; exit 1; }
# In namespaces of its own: mounts and processes end with it, and nothing of the host is seen.
inside() { unshare --mount --pid --fork --kill-child chroot "$root" "$@"; }
is_there() { [ -e "$root$1" ] || [ -L "$root$1" ] || fail "$1 is not there"; }
is_gone() { if [ -e "$root$1" ] || [ -L "$root$1" ]; then fail "$1 is still there"; fi; }

# The dependencies come from the archive, the package itself is installed by dpkg below.
# shellcheck disable=SC1091
codename="$(. /etc/os-release && echo "$VERSION_CODENAME")"
depends="$(dpkg-deb -f "$deb" Depends | sed 's/([^)]*)//g; s/systemd |//; s/| systemd-sysusers//; s/[ ]//g')"
if ! mmdebstrap --quiet --variant=essential --include="$depends,init-system-helpers,passwd,mount" \
    "$codename" "$root" >"$work/log" 2>&1; then
    echo "skipped: no root file system from the archive: $(tail -1 "$work/log")"
    exit 77
fi
cp "$deb" "$root/emberd.deb"

echo "install"
inside dpkg -i /emberd.deb >"$work/log" 2>&1 || { cat "$work/log"; fail "dpkg -i"; }
for file in /usr/bin/emberd /etc/emberd/emberd.toml /usr/lib/systemd/system/emberd.service \
    /usr/lib/systemd/system/emberd-tune.service /usr/lib/sysusers.d/emberd.conf \
    /usr/share/man/man1/emberd.1.gz /usr/share/man/man1/emberd-tune.1.gz \
    /usr/share/bash-completion/completions/emberd /usr/share/zsh/vendor-completions/_emberd \
    /usr/share/fish/vendor_completions.d/emberd.fish /usr/share/doc/emberd/copyright \
    /etc/systemd/system/multi-user.target.wants/emberd.service; do
    is_there "$file"
done
is_gone /etc/systemd/system/emberd.service.wants/emberd-tune.service
user="$(inside getent passwd ember)" || fail "no user ember"
case "$user" in *:/usr/sbin/nologin) ;; *) fail "ember can log in: $user" ;; esac
inside emberd check >/dev/null || fail "the config that comes with it is refused"
[ "$(inside emberd version)" = "emberd $(dpkg-deb -f "$deb" Version | sed 's/-[0-9]*$//')" ] ||
    fail "another version"

echo "serve"
# A network of its own, so that the ports of the config are free. Process 1 ends when the server
# has drained, and takes with it whatever would be left.
timeout 60 unshare --mount --net --pid --fork --kill-child chroot "$root" sh -ec '
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    export EMBERD_CONFIG=/etc/emberd/emberd.toml
    emberd run &
    tries=0
    until emberd status 2>/dev/null | grep "worker 0.* ready"; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || { echo "it never became ready"; exit 1; }
        sleep 0.1
    done
    emberd drain
    wait $!' >"$work/log" 2>&1 || { cat "$work/log"; fail "it does not serve"; }
sed 's/^/  /' "$work/log"

echo "change a conffile, install again"
echo "# kept" >>"$root/etc/emberd/emberd.toml"
inside dpkg -i /emberd.deb >"$work/log" 2>&1 || { cat "$work/log"; fail "dpkg -i again"; }
grep -q '^# kept' "$root/etc/emberd/emberd.toml" || fail "a changed config was written over"

echo "remove"
inside dpkg -r emberd >"$work/log" 2>&1 || { cat "$work/log"; fail "dpkg -r"; }
is_gone /usr/bin/emberd
is_gone /usr/lib/systemd/system/emberd.service
is_gone /usr/share/doc/emberd
is_there /etc/emberd/emberd.toml

echo "purge"
inside dpkg -P emberd >"$work/log" 2>&1 || { cat "$work/log"; fail "dpkg -P"; }
is_gone /etc/emberd
is_gone /run/emberd
is_gone /etc/systemd/system/multi-user.target.wants/emberd.service
! inside getent passwd ember >/dev/null || fail "the user ember is still there"
left="$(find "$root" -xdev -name '*emberd*' ! -path "$root/proc/*" ! -path "$root/emberd.deb" \
    ! -path "$root/var/log/*")"
[ -z "$left" ] || fail "left behind: $left"
echo "well"
