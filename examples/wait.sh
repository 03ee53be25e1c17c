#!/bin/sh
# Waits until a database is ready, with a shell alone: where `selfheald wait` is installed, use that.
#
#     sh wait.sh workspace/simulation.duckdb 300 && python simulate.py
#
# The second argument is a limit in seconds. Exit codes: 0 ready, 1 failed, 3 timed out, 4 no daemon watches the path.
# docs/marker-protocol.md explains each step.
set -u
database=$1
limit=${2:-300}
folder=$(dirname -- "$database")/.selfheald
name=$(basename -- "$database")
marker=$database.ready
status=$folder/$name.status
request=$folder/$name.request
id=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')

# The first value of a key in a JSON file, without quotes; empty if there is none. No text that we look for has spaces.
value() { tr -d ' \n' <"$2" 2>/dev/null | grep -o "\"$1\":[^,}]*" | head -n 1 | cut -d : -f 2- | tr -d '"'; }

# True if the marker tells of the very file that is there. With GNU stat alone, and without a WAL: else we ask.
is_valid() {
    [ -e "$marker" ] && [ ! -e "$database.wal" ] && [ "$(value wal "$marker")" = null ] || return 1
    there=$(stat -c '%d %i %s %.9Y %.9Z' -- "$database" 2>/dev/null | tr -d .)
    told=
    for key in device inode size mtime_ns ctime_ns; do told="$told $(value $key "$marker")"; done
    [ " $there" = "$told" ]
}

# True if a folder above has a daemon, or if we cannot tell (there is no `flock` command).
is_watched() {
    command -v flock >/dev/null || return 0
    above=$(cd -- "$(dirname -- "$database")" && pwd -P) || return 1
    while :; do
        lock=${above%/}/.selfheald/daemon.lock
        [ -e "$lock" ] && ! flock -n -s "$lock" true 2>/dev/null && return 0
        [ "$above" = / ] && return 1
        above=$(dirname -- "$above")
    done
}

# Drop a request, whole and never over another one; a request that waits already counts for us too.
ask() {
    mkdir -p -- "$folder" || exit 1
    printf '{"format": 1, "id": "%s", "pid": %s}\n' "$id" "$$" >"$folder/.$name.request.$id" || exit 1
    chmod 644 "$folder/.$name.request.$id"
    ln -- "$folder/.$name.request.$id" "$request" 2>/dev/null || id=$(value id "$request")
    rm -f -- "$folder/.$name.request.$id" "$folder/.$name.request.$own"
}

is_valid && exit 0
own=$id
is_watched || sleep 5
is_watched || { echo "no daemon watches $database" >&2; exit 4; }
before=$(value answers "$status")
ask
end=$(($(date +%s) + limit))
while [ "$(date +%s)" -lt "$end" ]; do
    [ -n "$id" ] && [ "$(value answers "$marker")" = "$id" ] && exit 0
    is_valid && exit 0
    answers=$(value answers "$status")
    # An answer to another request than before: ours, or a later one that ours was merged into.
    if [ "$answers" != "$before" ] && [ -n "$answers" ]; then
        id=$answers
        if [ "$(value state "$status")" = failed ] && [ "$(value next_attempt_at "$status")" = null ]; then
            sed -n 's/^ *"message": /failed: /p' "$status" >&2
            exit 1
        fi
    fi
    sleep 0.2
done
echo "not ready after $limit s: $database" >&2
exit 3
