#!/bin/sh
# Installs, by apt, the Debian or Ubuntu packages that a job needs and that are not there yet.
#   sh deploy/install-packages.sh build [test] [bench]
# Says what it installs before it does; does nothing, and asks for nothing, where all is there.
set -eu

wanted() {
    case "$1" in
    # A linker and C library for cargo; hwloc (with udev, which it links) for the topology.
    build) echo gcc libc6-dev pkg-config libhwloc-dev libudev-dev ;;
    # Real clients, namespaces, the metrics checkers, and a browser.
    test) echo ca-certificates curl wrk nghttp2-client apache2-utils python3 python3-jsonschema python3-pip iproute2 ethtool prometheus python3-prometheus-client procps chromium valgrind nginx-light mmdebstrap postgresql redis-server ;;
    # Peers and instruction counts.
    bench) echo curl wrk nginx-light iproute2 procps valgrind ;;
    *) echo "install-packages.sh: unknown set '$1': one of build, test, bench" >&2; exit 2 ;;
    esac
}

missing=""
for set in "$@"; do
    for package in $(wanted "$set"); do
        case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)" in
        *" installed") ;;
        *) case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac ;;
        esac
    done
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "These packages (Debian's names) are needed and there is no apt-get to install them:$missing" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" != 0 ]; then
    as_root="sudo"
    command -v sudo >/dev/null 2>&1 || { echo "As root, run: apt-get install -y$missing" >&2; exit 1; }
fi
echo "Installing by apt:$missing"
# Services that come with a package are not wanted running: a policy for the time of the install
# keeps nginx and prometheus from starting by themselves.
policy=/usr/sbin/policy-rc.d
made_policy=""
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    made_policy=1
fi
trap '[ -z "$made_policy" ] || $as_root rm -f "$policy"' EXIT
$as_root apt-get update -qq
# shellcheck disable=SC2086 # the list is words on purpose
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
