#!/usr/bin/env bash
# On a machine with a GPU, nvcc, cmake and Python: builds llama.cpp's CUDA backend and llama-server for
# the GPU that is there, checks answers, measures. Each step is left out if it is done; all of them in
# one call take about half an hour on 16 cores. Results go to $OUT (default gpu-out).
# Usage: run.sh [build|check|measure]...    (all of them)
# BACKEND=cpu SHAPE=tiny runs the same steps without a GPU, to try them; PEER is another program to
# compare with.
set -euo pipefail
cd "$(dirname "$0")/../.."
pack=gpu-out work=gpu-work backend=${BACKEND:-cuda} shape=${SHAPE:-llama-8b} OUT=${OUT:-gpu-out}
forebay=$pack/forebay/usr/bin/forebay peer=${PEER:-$work/build/bin/llama-server}
mkdir -p "$work" "$OUT"
steps=("$@")
[ $# -gt 0 ] || steps=(build check measure)

build() {
    [ -d "$work/llama.cpp" ] || { mkdir -p "$work/llama.cpp"; tar xzf "$pack/llama.cpp.tar.gz" -C "$work/llama.cpp"; }
    local cuda=OFF
    [ "$backend" = cpu ] || cuda=ON
    # The same ggml for both: one build of the backend, as a module that either of them loads.
    cmake -S "$work/llama.cpp" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
        -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DGGML_CPU_ALL_VARIANTS=ON -DGGML_CUDA=$cuda \
        -DCMAKE_CUDA_ARCHITECTURES=native -DGGML_CUDA_NCCL=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF >"$OUT/cmake.log" 2>&1
    cmake --build "$work/build" --parallel "$(nproc)" --target llama-server >"$OUT/build.log" 2>&1 ||
        { tail -n 40 "$OUT/build.log"; exit 1; }
    if [ "$backend" = cuda ]; then
        cmake --build "$work/build" --parallel "$(nproc)" --target ggml-cuda >>"$OUT/build.log" 2>&1 ||
            { tail -n 40 "$OUT/build.log"; exit 1; }
        cp "$work/build/bin/libggml-cuda.so" "$pack/forebay/usr/lib/forebay/"
    fi
    "$forebay" devices | tee "$OUT/devices.txt"
}

check() {
    cat "$pack"/smollm2.gguf.?? >"$work/smollm2.gguf"
    python3 tests/gpu/check.py "$forebay" "$work/smollm2.gguf" | tee "$OUT/check.txt"
}

measure() {
    local kind
    local load=()
    [ "$shape" = llama-8b ] || load=(--streams 1 4 --prompt 64 --tokens 16 --vocab 2000 --rounds 1)
    for kind in q4_k_m q8_0; do
        [ -f "$work/$kind.gguf" ] || python3 tests/models/random_gguf.py "$work/$kind.gguf" --kind "$kind" --shape "$shape"
        "$forebay" fit --model "$work/$kind.gguf" | tee "$OUT/fit-$kind.txt"
        python3 tests/gpu/measure.py --forebay "$forebay" --peer "$peer" --model "$work/$kind.gguf" \
            --out "$OUT/$kind.json" "${load[@]}" | tee "$OUT/$kind.txt"
    done
}

for step in "${steps[@]}"; do
    "$step"
done
