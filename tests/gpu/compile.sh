#!/usr/bin/env bash
# Compiles and links the CUDA backend where no GPU is, 25 to 50 minutes on two cores for one architecture, and
# looks at the outcome: every symbol is found, and with a driver that shows no device the CPU serves.
# Usage: compile.sh FOLDER [ARCHITECTURE]    (default 90-real: H100 and H200)
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(realpath --canonicalize-missing "$1") architecture=${2:-90-real}
mkdir -p "$out"
tests/gpu/toolkit.sh "$out/toolkit"
started=$(date +%s)
# As docker/Dockerfile.cuda does it.
PATH="$out/toolkit/bin:$PATH" CUDA_PATH=$out/toolkit CMAKE_CUDA_ARCHITECTURES=$architecture \
    CMAKE_CUDA_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER:-} CARGO_TARGET_DIR=$out/target \
    RUSTFLAGS="-C target-cpu=x86-64-v3 -C link-arg=-Wl,-rpath,\$ORIGIN/../lib/forebay -C link-arg=-Wl,--allow-shlib-undefined" \
    cargo build --release --locked --package forebay-server --features dynamic-backends,cuda
echo "compiled in $((($(date +%s) - started) / 60)) minutes"
rm -rf "$out/installed"
docker/collect.sh "$out/target/release" "$out/installed"
