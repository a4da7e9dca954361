#!/bin/sh
# The tasks application beside others, on one PostgreSQL: requests/s and CPU of the server process.
#   sh bench/crud.sh [seconds] [rounds]
# Wants what `make bench-full` builds (bench/setup.sh full), PostgreSQL and wrk. Each server is asked
# in its turn, with the table as seeded; a server that is not there is left out.
set -eu

seconds=${1:-10}
rounds=${2:-3}
here=$(cd "$(dirname "$0")" && pwd)
target=${BENCH_TARGET:-$here/../target}
built=${BENCH_BUILT:-$target/bench-peers}
port=${BENCH_PORT:-18180}
for programs in /usr/lib/postgresql/*/bin; do :; done
[ -x "$programs/initdb" ] || { echo "crud.sh: PostgreSQL is not installed (apt-get install postgresql)" >&2; exit 1; }
command -v wrk >/dev/null || { echo "crud.sh: wrk is not installed (apt-get install wrk)" >&2; exit 1; }

dir=$(mktemp -d)
# Other users than ours have to reach the socket in it.
chmod 755 "$dir"
# PostgreSQL does not run as root.
as_user=""
if [ "$(id -u)" = 0 ]; then
    user=postgres
    id postgres >/dev/null 2>&1 || user=nobody
    chown "$user" "$dir"
    as_user="setpriv --reuid=$user --clear-groups --"
fi
server=""
stop_all() {
    [ -z "$server" ] || kill -TERM "$server" 2>/dev/null || true
    (cd / && $as_user "$programs/pg_ctl" -D "$dir/data" -w -m immediate stop >/dev/null 2>&1) || true
    rm -rf "$dir"
}
trap stop_all EXIT
trap 'exit 1' INT TERM

cd /
$as_user "$programs/initdb" -D "$dir/data" -U postgres -A trust --no-sync -E UTF8 >/dev/null
$as_user "$programs/pg_ctl" -D "$dir/data" -w -l "$dir/log" \
    -o "-c listen_addresses= -c unix_socket_directories=$dir -c shared_buffers=128MB -F" start >/dev/null
psql() { $as_user "$programs/psql" -h "$dir" -U postgres -qAt "$@"; }
cat "$here"/../ember/examples/tasks/migrations/*.sql | psql
# The application finds its migrations applied.
psql -c "CREATE TABLE migrations (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO migrations (version) VALUES (1), (2)"

export DATABASE_URL="host=$dir user=postgres dbname=postgres" TASKS_CONNECTIONS="${TASKS_CONNECTIONS:-2}"
export PGHOST="$dir" PGUSER=postgres PGDATABASE=postgres NODE_ENV=production IDS="$dir/ids" EMBERD_STATE_DIR="$dir/state"

ticks() { # user and system time of the process and its children that live, in ticks
    total=0
    for pid in $1 $(pgrep -P "$1" || true); do
        # shellcheck disable=SC2046 # the fields are words on purpose
        set -- $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null || echo)
        [ $# -lt 13 ] || total=$((total + ${12} + ${13}))
    done
    echo $total
}

measure() { # label, program that must be there, command...
    label=$1 needed=$2
    shift 2
    [ -e "$needed" ] || { echo "$label: left out, no $needed" >&2; return; }
    psql -c "TRUNCATE tasks; INSERT INTO tasks (title, description, priority, created_at)
        SELECT 'Task ' || n, 'Seeded', n % 5, now() - n * interval '1 minute' FROM generate_series(1, 1000) n"
    psql -c "VACUUM ANALYZE tasks" -c "SELECT id FROM tasks" >"$IDS"
    "$@" >"$dir/out" 2>&1 &
    server=$!
    tries=0
    until curl -sf "http://127.0.0.1:$port/tasks?page=1" >/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || { echo "$label does not answer:" >&2; cat "$dir/out" >&2; exit 1; }
        sleep 0.1
    done
    wrk -t 1 -c 200 -d 2 -s "$here/crud.lua" "http://127.0.0.1:$port" >/dev/null
    before=$(ticks "$server")
    said=$(wrk -t 1 -c 200 -d "$seconds" -s "$here/crud.lua" --latency "http://127.0.0.1:$port")
    after=$(ticks "$server")
    # shellcheck disable=SC2046 # the numbers are words on purpose
    set -- $(echo "$said" | sed -n 's/^requests \([0-9]*\) us \([0-9]*\) failed \([0-9]*\)$/\1 \2 \3/p')
    p99=$(echo "$said" | awk '$1 == "99%" { print $2 }')
    awk -v l="$label" -v n="$1" -v us="$2" -v f="$3" -v t=$((after - before)) -v p="$p99" -v hz="$(getconf CLK_TCK)" \
        'BEGIN { printf "%-24s %8.0f requests/s  %7.1f us CPU/request  p99 %-9s failed %d\n", l, n / us * 1e6, t / hz * 1e6 / n, p, f }'
    # A shell without a terminal lets its background programs ignore SIGINT.
    kill -TERM "$server"
    wait "$server" 2>/dev/null || true
    server=""
}

round=0
while [ "$round" -lt "$rounds" ]; do
    round=$((round + 1))
    echo "Round $round of $rounds"
    measure "ember, cache 1 s" "$target/application/examples/tasks" env TASKS_CACHE=ttl \
        "$target/application/examples/tasks" --listen "127.0.0.1:$port" --workers 1 --threads 1
    measure "ember, no cache" "$target/application/examples/tasks" env TASKS_CACHE=off \
        "$target/application/examples/tasks" --listen "127.0.0.1:$port" --workers 1 --threads 1
    measure "axum, tokio-postgres" "$built/release/peer-axum-tasks" "$built/release/peer-axum-tasks" "$port"
    measure "Express, pg" "$built/node/node_modules/pg/package.json" node "$built/node/tasks.js" "$port"
    measure "FastAPI, asyncpg" "$built/python/bin/uvicorn" "$built/python/bin/uvicorn" --app-dir "$built/python" \
        --host 127.0.0.1 --port "$port" --workers 1 --loop uvloop --http httptools --no-access-log \
        --log-level warning tasks_app:app
done
