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
own=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')

# The first value of a key in a JSON file, without quotes; nothing if there is none.
value() {
    tr -d ' \n' 2>/dev/null <"$2" | grep -o "\"$1\":[^,}]*" | head -n 1 | cut -d : -f 2- | tr -d '"'
}

# True if the marker tells of the very file that is there. Told by GNU stat, and without a WAL; else we ask.
is_valid() {
    [ -e "$marker" ] && [ ! -e "$database.wal" ] && [ "$(value wal "$marker")" = null ] || return 1
    there=$(stat -c '%d %i %s %.9Y %.9Z' -- "$database" 2>/dev/null | tr -d .)
    told=
    for key in device inode size mtime_ns ctime_ns; do told="$told $(value "$key" "$marker")"; done
    [ " $there" = "$told" ]
}

# True if a daemon watches a folder above, or if we cannot tell (there is no `flock` command).
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

# Drop a request, whole and never over another one; one that waits already counts for us too. Its id is then `id`.
ask() {
    draft=$folder/.$name.request.$own
    mkdir -p -- "$folder" || exit 1
    printf '{"format": 1, "id": "%s", "pid": %s}\n' "$own" "$$" >"$draft" && chmod 644 "$draft" || exit 1
    if ln -- "$draft" "$request" 2>/dev/null; then id=$own; else id=$(value id "$request"); fi
    rm -f -- "$draft"
}

is_valid && exit 0
is_watched || sleep 5 # a restart may take as long
is_watched || { echo "no daemon watches $database" >&2; exit 4; }
id=
older=
taken=
end=$(($(date +%s) + limit))
while [ "$(date +%s)" -lt "$end" ]; do
    [ -n "$id" ] || ask
    is_valid && exit 0
    [ -n "$id" ] && [ "$(value answers "$marker")" = "$id" ] && exit 0
    waits=$(value id "$request")
    answers=$(value answers "$status")
    if [ -n "$answers" ] && [ "$answers" != null ] && [ "$answers" != "$id" ]; then
        if [ -z "$taken" ]; then
            older=$answers # ours was taken only just now: what is answered there is an older one
        elif [ "$answers" != "$older" ]; then
            id=$answers # ours was merged into a later one
        fi
    fi
    if [ "$answers" = "$id" ] && [ "$(value state "$status")" = failed ] &&
        [ "$(value next_attempt_at "$status")" = null ]; then
        sed -n 's/^ *"message": \(.*\),$/failed: \1/p' "$status" >&2
        exit 1
    fi
    [ "$waits" = "$id" ] || taken=yes
    sleep 0.2
done
echo "not ready after $limit s: $database" >&2
exit 3
