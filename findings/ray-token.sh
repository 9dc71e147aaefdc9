#!/usr/bin/env bash
# ray 2.60.0: a program that starts a Ray of its own (ray.init) leaves a token in ~/.ray/auth_token. From then on
# `ray start` of the same user protects its cluster with this token, and ray.init(address) of the same user is refused
# by it, since it does not send the token unless RAY_AUTH_MODE=token is set. Seen here, in a home folder of its own:
#
#   before any ray.init                 a cluster of `ray start` is joined
#   after one                           ConnectionError, whose log says that the token is missing or incorrect
#   after one, RAY_AUTH_MODE=token      it is joined
#
# RAY_AUTH_MODE=token also joins a cluster that was started with RAY_AUTH_MODE=disabled.
#
# Exits with 0 while this is so, and with 1 as soon as it changes. Starts and stops a Ray on this machine.
set -euo pipefail
folder=$(mktemp -d)
bin="$folder/venv/bin"
trap '"$bin/ray" stop > /dev/null 2>&1 || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$bin/pip" --quiet install ray==2.60.0
mkdir "$folder/home"
export HOME="$folder/home" RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_ADDRESS

start() {
  "$bin/ray" start --head --port 6399 --num-cpus 1 --include-dashboard false > /dev/null 2>&1
}
join() {
  if timeout 120 "$@" "$bin/python" -c 'import ray; ray.init("127.0.0.1:6399")' > /dev/null 2>&1; then
    echo joined
  else
    echo refused
  fi
}

start
before=$(join env)
"$bin/ray" stop > /dev/null 2>&1
"$bin/python" -c 'import ray; ray.init(include_dashboard=False); ray.shutdown()' > /dev/null 2>&1
start
after=$(join env)
with_mode=$(join env RAY_AUTH_MODE=token)
echo "ray 2.60.0: before $before, after $after, with RAY_AUTH_MODE=token $with_mode"
[ "$before $after $with_mode" = "joined refused joined" ]
