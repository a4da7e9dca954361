#!/bin/sh
# Makes a package of a built emberd, for the Makefile.
#   sh deploy/package.sh deb       a Debian package, by cargo-deb (installed into target/tools once)
#   sh deploy/package.sh tarball   the same files for any Linux with glibc, hwloc linked in
# Both are written to target/dist and named on standard output.
set -eu
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
# A test may package the program that it has built.
binary="${EMBERD_BINARY:-$target/release/emberd}"
made=target/package
dist=target/dist
version="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)"
machine="$(uname -m)"

# The program, and what it writes of itself.
generate() {
    rm -rf "$made"
    mkdir -p "$made" "$dist"
    install -m 755 "$1" "$made/emberd"
    strip --strip-debug "$made/emberd"
    "$1" man "$made/man"
    "$1" completions bash >"$made/emberd.bash"
    "$1" completions zsh >"$made/_emberd"
    "$1" completions fish >"$made/emberd.fish"
}

deb() {
    generate "$binary"
    PATH="$PWD/target/tools/bin:$PATH"
    if ! command -v cargo-deb >/dev/null 2>&1; then
        echo "Installing cargo-deb into target/tools: a few minutes, once" >&2
        ${CARGO:-cargo} install --quiet --locked cargo-deb --root target/tools >&2
    fi
    cargo-deb deb -p emberd --no-build --quiet --output "$dist/"
}

# hwloc goes into the program where its static library is there; libc and libudev, which every
# systemd distribution has, stay outside: a static glibc could not look up users.
tarball() {
    libraries="$(pkg-config --variable=libdir hwloc)"
    [ -e "$libraries/libhwloc.a" ] || { echo "no libhwloc.a: apt install libhwloc-dev" >&2; exit 1; }
    # pkg-config's crate links what is below /usr dynamically, whatever it is told.
    static="$PWD/target/static"
    mkdir -p "$static"
    cp "$libraries/libhwloc.a" "$static/"
    sed "s,^libdir=.*,libdir=$static," "$libraries/pkgconfig/hwloc.pc" >"$static/hwloc.pc"
    PKG_CONFIG_PATH="$static" HWLOC_STATIC=1 \
        ${CARGO:-cargo} build --release --locked -p emberd --target-dir target/static-build >&2
    binary=target/static-build/release/emberd
    generate "$binary"
    name="emberd-$version-$machine-linux-gnu"
    rm -rf "${dist:?}/$name"
    install -D -m 755 "$made/emberd" "$dist/$name/bin/emberd"
    mkdir -p "$dist/$name/share/man/man1" "$dist/$name/share/completions"
    cp "$made"/man/*.1 "$dist/$name/share/man/man1/"
    cp "$made"/emberd.bash "$made"/_emberd "$made"/emberd.fish "$dist/$name/share/completions/"
    cp -r README.md CHANGELOG.md LICENSE docs deploy "$dist/$name/"
    tar -C "$dist" --owner=0 --group=0 --sort=name -czf "$dist/$name.tar.gz" "$name"
    rm -rf "${dist:?}/$name"
    echo "$dist/$name.tar.gz"
}

case "${1:-}" in
deb) deb ;;
tarball) tarball ;;
*) echo "usage: $0 deb|tarball" >&2; exit 2 ;;
esac
