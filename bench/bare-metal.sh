#!/bin/sh
# One million requests a second on two or more machines, step by step: docs/one-million.md says
# why each step is as it is.
#
#   On the server:        sh bench/bare-metal.sh server --nic IF [--port 8080] [--seconds 600]
#   On each load machine: sh bench/bare-metal.sh load --to HOST[:PORT] [--at HH:MM:SS] [--share N]
#
# --dry-run  prints what would be done, and does nothing.
# --share N  this machine makes one Nth of the load; start all N at the same --at.
# --force    goes on where a check says that the result will not mean much.
set -eu

usage() {
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 2
}

role=${1:-}
[ -n "$role" ] || usage
shift
nic="" port=8080 seconds=600 to="" at="" share=1 dry="" force=""
while [ $# -gt 0 ]; do
    case "$1" in
    --nic) nic=${2:?}; shift ;;
    --port) port=${2:?}; shift ;;
    --seconds) seconds=${2:?}; shift ;;
    --to) to=${2:?}; shift ;;
    --at) at=${2:?}; shift ;;
    --share) share=${2:?}; shift ;;
    --dry-run) dry=1 ;;
    --force) force=1 ;;
    *) usage ;;
    esac
    shift
done

here=$(cd "$(dirname "$0")/.." && pwd)
emberd=${EMBERD:-$here/target/release/emberd}
bench=${EMBER_BENCH:-$here/target/release/ember-bench}

say() { printf '\n== %s\n' "$*"; }

# Runs a command, or only says it.
do_it() {
    printf '+ %s\n' "$*"
    [ -n "$dry" ] || "$@"
}

# A reason why the result would not mean much.
doubt() {
    echo "Not as the recipe wants it: $1" >&2
    [ -n "$force" ] || [ -n "$dry" ] || { echo "(--force goes on all the same)" >&2; exit 1; }
}

physical_cores() {
    cat /sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list 2>/dev/null | sort -u | wc -l
}

check_server() {
    [ -n "$nic" ] || usage
    [ -d "/sys/class/net/$nic" ] || { echo "There is no interface $nic" >&2; exit 1; }
    speed=$(cat "/sys/class/net/$nic/speed" 2>/dev/null || echo 0)
    [ "$speed" -ge 25000 ] 2>/dev/null ||
        doubt "$nic runs at ${speed} Mb/s; the recipe is for 25,000 and more"
    queues=$(find "/sys/class/net/$nic/queues" -name 'rx-*' | wc -l)
    cores=$(physical_cores)
    [ "$cores" -ge 8 ] || doubt "$cores physical cores; the arithmetic asks for 8 and more"
    [ "$queues" -ge 2 ] || doubt "$nic has $queues receive queue: one core takes every packet"
    grep -q '^flags.* hypervisor' /proc/cpuinfo && doubt "this is a virtual machine"
    [ "$(id -u)" = 0 ] || [ -n "$dry" ] || { echo "Tuning needs root" >&2; exit 1; }
    echo "$nic: ${speed} Mb/s, $queues receive queues; $cores physical cores; $(uname -r)"
}

write_config() {
    cat <<CONFIG
[[listener]]
name = "web"
address = "[::]:$port"
backlog = 65535

[[prepared]]
path = "/hello"
body = "Hello, World!"
content_type = "text/plain"

[[metrics]]
path = "/metrics"
allow = ["127.0.0.0/8", "::1"]
CONFIG
}

serve() {
    say "1. The machine"
    check_server
    say "2. What tuning would change"
    do_it "$emberd" tune plan --nic "$nic"
    say "3. Tuning (undone at the end; 'emberd tune revert' undoes it at any time)"
    do_it "$emberd" tune apply --nic "$nic"
    [ -n "$dry" ] || trap '"$emberd" tune revert' EXIT
    do_it "$emberd" tune status
    say "4. Serving for $seconds s: one worker a NUMA node, one thread a physical core"
    config=million.toml
    if [ -z "$dry" ]; then
        config=$(mktemp)
        write_config >"$config"
    fi
    do_it timeout --preserve-status "$seconds" "$emberd" run -c "$config"
}

# One measurement of the load side; its threads have a physical core each.
shoot() {
    say "$1"
    shift
    do_it "$bench" load "http://$to/hello" --threads "$cores" --cpus "$cpus" --duration 30 \
        --body 'Hello, World!' "$@" || echo "(this step failed: see the faults above)"
}

load() {
    [ -n "$to" ] || usage
    case "$to" in *:*) ;; *) to="$to:$port" ;; esac
    cores=$(physical_cores)
    cpus=$(cat /sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list | sort -u |
        sed 's/[-,].*//' | sort -n | paste -sd, -)
    if [ -n "$at" ]; then
        wait_s=$(($(date -d "$at" +%s) - $(date +%s)))
        say "Waiting $wait_s s for $at"
        [ "$wait_s" -le 0 ] || do_it sleep "$wait_s"
    fi
    connections=$((64 * cores))
    shoot "1. One request at a time on each of $connections connections: the million" \
        --connections "$connections"
    shoot "2. Pipelined 16 deep: what is left when packets are shared" \
        --connections "$connections" --pipeline 16
    for rate in 250000 500000 750000 1000000; do
        shoot "3. Latency at $rate requests/s in all" \
            --connections "$connections" --rate $((rate / share)) --arrivals poisson
    done
}

case "$role" in
server) serve ;;
load) load ;;
*) usage ;;
esac
