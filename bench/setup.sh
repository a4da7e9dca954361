#!/bin/sh
# Installs and builds the peers of the benchmarks, from package registries by name.
#   sh bench/setup.sh [quick|full]
# Everything built goes to target/bench-peers; running it again does only what is missing.
set -eu

tier=${1:-quick}
here=$(cd "$(dirname "$0")" && pwd)
built=${BENCH_BUILT:-$here/../target/bench-peers}
mkdir -p "$built"
built=$(cd "$built" && pwd)

packages="nginx-light h2o haproxy golang-go golang-github-valyala-fasthttp-dev valgrind"
if [ "$tier" = full ]; then
    packages="$packages python3-venv postgresql wrk"
    # Any Node.js will do, wherever it came from.
    command -v node >/dev/null 2>&1 || packages="$packages nodejs"
    command -v npm >/dev/null 2>&1 || packages="$packages npm"
fi

missing=""
for package in $packages; do
    # Any flavour of nginx serves.
    [ "$package" = nginx-light ] && command -v nginx >/dev/null 2>&1 && continue
    case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)" in
    *" installed") ;;
    *) missing="$missing $package" ;;
    esac
done

if [ -n "$missing" ]; then
    as_root=""
    [ "$(id -u)" = 0 ] || as_root=sudo
    echo "Installing by apt:$missing"
    # No service of a package is wanted running.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
        trap '$as_root rm -f "$policy"' EXIT
    fi
    $as_root apt-get update -qq
    for package in $missing; do
        # A peer that cannot be had is left out of the tables with the reason; the rest goes on.
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
            echo "Not to be had here: $package" >&2
    done
fi

echo "Building the peers in Rust"
CARGO_TARGET_DIR="$built" cargo build --release --quiet --locked \
    --manifest-path "$here/peers/rust/Cargo.toml"

if command -v go >/dev/null 2>&1 && [ -d /usr/share/gocode/src/github.com/valyala/fasthttp ]; then
    echo "Building the peer in Go"
    version=$(dpkg-query -W -f '${Version}' golang-github-valyala-fasthttp-dev)
    (
        cd "$here/peers/fasthttp"
        # Debian ships Go libraries as source under one GOPATH.
        GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE="$built/go-cache" GOFLAGS=-buildvcs=false \
            go build -ldflags "-X main.version=$version" -o "$built/fasthttp" main.go
    )
fi

if [ "$tier" = full ]; then
    echo "Installing the peers on Node.js and Python"
    mkdir -p "$built/node"
    cp "$here"/peers/node/* "$built/node/"
    npm install --prefix "$built/node" --no-audit --no-fund --loglevel=error
    [ -x "$built/python/bin/python" ] || python3 -m venv "$built/python"
    "$built/python/bin/pip" install --quiet -r "$here/peers/python/requirements.txt"
    cp "$here"/peers/python/*.py "$built/python/"
fi
echo "Peers are ready in $built"
