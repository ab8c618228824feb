#!/usr/bin/env bash
# To be sourced: sees to it that a Docker engine runs, one of its own where there is none, and fails if it cannot;
# `stop_engine` ends the own one. Without networks of its own, so that it runs inside of containers. Needs root then.
own_engine=""
stop_engine() {
    [ -z "$own_engine" ] || kill "$own_engine" 2>/dev/null || true
    own_engine=""
}

# For as long as the own one runs, but at most 10 seconds.
wait_for_engine() {
    for _ in $(seq 50); do
        ! docker info >/dev/null 2>&1 || return 0
        kill -0 "$own_engine" 2>/dev/null || return 1
        sleep 0.2
    done
    return 1
}

if ! docker info >/dev/null 2>&1; then
    command -v dockerd >/dev/null || { echo "needs docker.io"; apt-get update -qq; \
        apt-get install -y -qq --no-install-recommends docker.io >/dev/null; }
    engine_log=${TMPDIR:-/tmp}/forebay-dockerd.log
    dockerd --iptables=false --bridge=none >"$engine_log" 2>&1 &
    own_engine=$!
    if ! wait_for_engine; then
        echo "no Docker engine is up; the end of $engine_log:" >&2
        tail -n 20 "$engine_log" >&2
        stop_engine
        return 1
    fi
fi
