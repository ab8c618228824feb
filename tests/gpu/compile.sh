#!/usr/bin/env bash
# Compiles and links the CUDA backend where no GPU is, for one kind of GPU, and looks at the outcome: all symbols
# are found, and the program computes on the CPU where there is no driver, or one that shows no device. With
# `image`, builds docker/Dockerfile.cuda on top of the same toolkit. Each takes 25 to 50 minutes of two cores.
# Usage: compile.sh FOLDER [program|image]...
# (program; ARCHITECTURE=90-real, which is H100 and H200; CUDA_FA=OFF leaves flash attention out of the image)
set -euo pipefail
out=$(realpath --canonicalize-missing "$1")
cd "$(dirname "$0")/../.."
toolkit=$out/toolkit installed=$out/installed/usr
export CMAKE_CUDA_ARCHITECTURES=${ARCHITECTURE:-90-real}
shift
mkdir -p "$out"
tests/gpu/toolkit.sh "$toolkit"

# As docker/Dockerfile.cuda does it.
program() {
    PATH="$toolkit/bin:$PATH" CUDA_PATH=$toolkit CMAKE_CUDA_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER:-} \
        CARGO_TARGET_DIR=$out/target \
        RUSTFLAGS="-C target-cpu=x86-64-v3 -C link-arg=-Wl,-rpath,\$ORIGIN/../lib/forebay -C link-arg=-Wl,--allow-shlib-undefined" \
        cargo build --release --locked --package forebay-server --features dynamic-backends,cuda
    rm -rf "$out/installed"
    docker/collect.sh "$out/target/release" "$out/installed"
    ls -lh "$installed/lib/forebay/libggml-cuda.so"
    symbols
    without_a_gpu
}

symbols() {
    local missing
    missing=$(LD_LIBRARY_PATH=$toolkit/lib/stubs:$toolkit/lib:$installed/lib/forebay \
        ldd -r "$installed/lib/forebay/libggml-cuda.so" 2>&1 | grep -E 'undefined symbol|not found' || true)
    [ -z "$missing" ] || { echo "$missing"; exit 1; }
    readelf --dynamic "$installed/lib/forebay/libggml-cuda.so" | grep -q 'NEEDED.*libcuda.so.1' ||
        { echo "the CUDA backend does not ask for its driver"; exit 1; }
    echo "all symbols of the CUDA backend are found"
}

without_a_gpu() {
    local paths listed loads
    for paths in "" "$toolkit/lib" "$toolkit/lib:$toolkit/lib/stubs"; do
        listed=$(LD_LIBRARY_PATH=$paths "$installed/bin/forebay" devices)
        grep -q 'CPU (' <<<"$listed" || { echo "no CPU with LD_LIBRARY_PATH=$paths: $listed"; exit 1; }
        ! grep -q CUDA <<<"$listed" || { echo "a GPU with LD_LIBRARY_PATH=$paths: $listed"; exit 1; }
    done
    loads=$(LD_LIBRARY_PATH=$toolkit/lib:$toolkit/lib/stubs LD_DEBUG=files "$installed/bin/forebay" devices 2>&1 |
        grep -c 'calling init: .*libggml-cuda.so' || true)
    [ "$loads" -gt 0 ] || { echo "the backend was not even loaded"; exit 1; }
    echo "no libraries, no driver, no device: the CPU computes"
}

# Stands in for NVIDIA's base images: the compiler and the libraries where they have them.
image() {
    trap stop_engine EXIT
    # shellcheck source=tests/docker/engine.sh
    . tests/docker/engine.sh
    tests/docker/bases.sh
    base() {
        local from=$1 to=$2
        shift 2
        { echo "FROM $from"; printf '%s\n' "$@"; } | docker build --quiet --file - --tag "$to" "$toolkit" >/dev/null
    }
    base debian:bookworm forebay-cuda-devel "COPY . /usr/local/cuda" \
        "ENV PATH=/usr/local/cuda/bin:\$PATH CUDA_PATH=/usr/local/cuda GGML_CUDA_FA=${CUDA_FA:-ON}"
    base debian:bookworm-slim forebay-cuda-runtime "COPY lib/libcudart.so.13 lib/libcublas.so.13 lib/libcublasLt.so.13 /usr/local/cuda/lib/" \
        "RUN echo /usr/local/cuda/lib >/etc/ld.so.conf.d/cuda.conf && ldconfig"
    DOCKER_BUILDKIT=0 docker build --quiet --network host --file docker/Dockerfile.cuda --tag forebay:cuda \
        --build-arg BUILDER_IMAGE=forebay-cuda-devel --build-arg RUNTIME_IMAGE=forebay-cuda-runtime \
        --build-arg CMAKE_CUDA_ARCHITECTURES="$CMAKE_CUDA_ARCHITECTURES" . >/dev/null
    docker run --rm --read-only --cap-drop ALL --network none forebay:cuda devices
    local missing
    missing=$(docker run --rm --network none --env LD_LIBRARY_PATH=/usr/lib/forebay --entrypoint ldd forebay:cuda \
        /usr/lib/forebay/libggml-cuda.so | grep 'not found' | grep -v libcuda.so.1 || true)
    [ -z "$missing" ] || { echo "$missing"; exit 1; }
    docker image inspect forebay:cuda --format '{{.Size}}' | awk '{printf "image: %.0f MB\n", $1 / 1e6}'
}

steps=("$@")
[ $# -gt 0 ] || steps=(program)
for step in "${steps[@]}"; do
    started=$(date +%s)
    "$step"
    echo "$step: $((($(date +%s) - started) / 60)) minutes"
done
