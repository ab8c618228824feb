#!/usr/bin/env bash
# To be sourced: sees to it that a Docker engine runs, one of its own where there is none; `stop_engine` ends that.
# Without networks of its own, so that it runs inside of containers. Needs root then.
own_engine=""
if ! docker info >/dev/null 2>&1; then
    command -v dockerd >/dev/null || { echo "needs docker.io"; apt-get update -qq; \
        apt-get install -y -qq --no-install-recommends docker.io >/dev/null; }
    dockerd --iptables=false --bridge=none >/tmp/forebay-dockerd.log 2>&1 &
    own_engine=$!
    for _ in $(seq 50); do docker info >/dev/null 2>&1 && break; sleep 0.2; done
fi
stop_engine() { [ -z "$own_engine" ] || kill "$own_engine"; }
