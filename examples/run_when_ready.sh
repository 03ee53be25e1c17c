#!/usr/bin/env bash
# Runs a command once a database is ready, and says what to do where it is not.
#
#     bash examples/run_when_ready.sh workspaces/alpha python simulate.py
#
# Exit codes: the command's; 75 (try again later) if it is not ready yet; 1 or 2 where trying again would not help.
set -euo pipefail
workspace=$1
shift
code=0
selfheald wait "$workspace" --timeout "${TIMEOUT:-300}" || code=$?
case $code in
    0) exec "$@" ;;
    3) echo "not ready yet: selfheald status $workspace" >&2 && exit 75 ;;
    4) echo "nobody watches it: selfheald run, or selfheald ensure $workspace" >&2 && exit 75 ;;
    *) echo "it will not become ready by itself: selfheald history $workspace" >&2 && exit "$code" ;;
esac
