#!/usr/bin/env bash
# On a machine with a GPU, its driver, nvcc, CMake and Python, without Rust and without a network: compiles llama.cpp's
# backend for the GPU, checks answers, and measures Forebay beside llama-server with models of Llama 3.1 8B's shape.
#
# Such a machine is lent for minutes: a command has 10, and takes along 64 MiB beside the repository. So this is three
# commands, each of which ends within its BUDGET of seconds, and leaves what it has in $OUT at any time:
#
#   command                          takes along               what it does
#   BUDGET=530 tests/gpu/run.sh 1    programs, module          backend, check with a made-up model, Q4_K_M
#   BUDGET=500 tests/gpu/run.sh 2    model-1                   Q8_0, where a step's time goes, costs for the simulator
#   BUDGET=380 tests/gpu/run.sh 3    model-2                   check with a real model, more rounds of both, the table
#
# (folders of gpu-out, by pack.sh; `run.sh --plan` prints this with their sizes). What was unpacked, compiled and made
# stays in gpu-work. Where the machine is a new one, take programs and module along again and nothing else: 3 then checks
# with a made-up model. A backend that was compiled comes back as $OUT/module: it goes to gpu-out/module.
#
# Usage: run.sh 1|2|3|--plan|STEP...    with the steps unpack backend models check measure breakdown costs table
# (measure takes KIND=q4_k_m|q8_0 and PERCENT, its part of the time that is left; ARCHITECTURE=native)
# BACKEND=vulkan or cpu and SHAPE=llama-8b-narrow or tiny are the same steps without a GPU, to try them.
set -euo pipefail
cd "$(dirname "$0")/../.."
pack=gpu-out work=gpu-work backend=${BACKEND:-cuda} shape=${SHAPE:-llama-8b} BUDGET=${BUDGET:-530} call=0
OUT=$(realpath --canonicalize-missing "${OUT:-gpu-work/out}")
libraries=$work/usr/lib/forebay forebay=${FOREBAY:-$work/usr/bin/forebay} peer=${PEER:-$libraries/llama-server}
log=$OUT/log.txt
# The kind of weights of which the breakdown and the costs are measured.
costs_kind=q4_k_m
case $shape in
    llama-8b) load_options=() costs_options=(--wide --ctx-size 160000)
        breakdown_options=(--streams 64 --prompt-tokens 512 --tokens 128 --rounds 2) ;;
    # Slow devices: little of everything.
    *) load_options=(--streams 2 1 4 --prompt 8 --tokens 4 --rounds 2 --vocab "${VOCAB:-128000}")
        costs_options=(--depth 0 --ctx-size 4096 --rounds 1)
        breakdown_options=(--streams 4 --prompt-tokens 8 --tokens 4 --rounds 1) ;;
esac

plan() {
    sed -n '/^#   command /,/^#$/s/^# \{0,3\}//p' tests/gpu/run.sh
    du --summarize --human-readable "$pack"/*/ 2>/dev/null || echo "(nothing is packed: tests/gpu/pack.sh)"
}

steps() { sed -n 's/^# Usage:.* with the steps //p' tests/gpu/run.sh; }

left() { echo $((BUDGET - SECONDS > 1 ? BUDGET - SECONDS : 1)); }

# Runs a command for as long as there is time, but for so many seconds.
bounded() {
    local keep=$1
    shift
    timeout --kill-after=5 $(($(left) > keep + 1 ? $(left) - keep : 1)) "$@"
}

# Runs step_NAME. A step that fails, or that there is no time for, leaves the others as they are.
step() {
    local began=$SECONDS status=0 outcome=""
    if [ "$(left)" -lt 10 ]; then
        echo "== no time for: $1"
        return
    fi
    echo "== $1"
    set +e
    (
        set -e
        "step_$1"
    )
    status=$?
    set -e
    case $status in
        0) ;;
        124) outcome="FAILED (out of time), " ;;
        *) outcome="FAILED ($status), " ;;
    esac
    echo "== $1 ${outcome}took $((SECONDS - began)) s, $(left) s are left"
}

step_unpack() {
    local part first
    if [ -d "$pack/programs" ] && [ ! -x "$work/usr/bin/forebay" ]; then
        # xz may be missing there, Python's is not.
        python3 -m tarfile --extract "$pack/programs/programs.tar.xz" "$work"
    fi
    mkdir -p "$work/parts"
    for part in "$pack"/model-*/*; do
        [ ! -f "$part" ] || cp "$part" "$work/parts/"
    done
    # A part is named NUMBER OF PARTS-NUMBER.
    first=$(find "$work/parts" -type f | sort | head -n 1)
    if [ -n "$first" ] && [ "$(find "$work/parts" -type f | wc -l)" = "$(basename "${first%-*}")" ]; then
        cat "$work"/parts/* >"$work/smollm2.gguf"
    fi
    ls -l "$work"
}

# Where CUDA's libraries may be, for a backend that was compiled elsewhere.
library_folders() {
    local folder packages
    packages=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    for folder in "$(dirname "$(command -v nvcc || echo /none/nvcc)")/../lib64" /usr/local/cuda/lib64 /usr/local/nvidia/lib64 \
        "$packages"/nvidia/cu13/lib; do
        [ ! -d "$folder" ] || printf '%s:' "$folder"
    done
    # Not before those of the machine.
    ldconfig -p 2>/dev/null | grep -q libgomp.so.1 || printf '%s:' "$PWD/$work/usr/lib/fallback"
    printf '%s' "$PWD/$libraries"
}

has_gpu() {
    "$forebay" devices >"$work/devices.txt" 2>&1 || true
    cat "$work/devices.txt" >>"$log"
    grep -qi "^ *${backend}[0-9]" "$work/devices.txt"
}

step_backend() {
    local module=$libraries/libggml-$backend.so
    if [ "$backend" != cpu ] && ! has_gpu; then
        if [ -d "$pack/module" ]; then
            python3 tests/gpu/pieces.py join "$pack/module" "$module" && has_gpu || echo "the backend that was brought does not work here"
        fi
        has_gpu || compile_backend "$module"
    fi
    "$forebay" devices
}

# Of llama.cpp only the backend: all else was brought.
compile_backend() {
    local settings=(-DGGML_VULKAN=ON)
    [ "$backend" = vulkan ] || settings=(-DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF "-DCMAKE_CUDA_ARCHITECTURES=${ARCHITECTURE:-native}")
    ! command -v ninja >/dev/null || settings+=(-G Ninja)
    rm -f "$1"
    bounded 30 cmake -S "$work/ggml" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON \
        -DGGML_NATIVE=OFF -DGGML_CPU=OFF -DGGML_BUILD_TESTS=OFF -DGGML_BUILD_EXAMPLES=OFF "${settings[@]}" >>"$log" 2>&1 ||
        { tail -n 30 "$log"; return 1; }
    bounded 30 cmake --build "$work/build" --parallel "$(nproc)" --target "ggml-$backend" >>"$log" 2>&1 ||
        { tail -n 30 "$log"; return 1; }
    strip -o "$1" "$work/build/bin/libggml-$backend.so"
    has_gpu
    python3 tests/gpu/pieces.py split "$1" "$OUT/module"
}

# Whole, or not there.
make_model() { [ -f "$work/$1.gguf" ] || python3 tests/models/random_gguf.py "$work/$1.gguf" --shape "$2" --kind "$3"; }

step_models() {
    make_model q4_k_m "$shape" q4_k_m
    make_model q8_0 "$shape" q8_0
}

step_check() {
    local model=$work/smollm2.gguf small_shape=llama-1b tokens=32
    [ "$shape" = llama-8b ] || small_shape=tiny tokens=4
    if [ ! -f "$model" ]; then
        echo "the real model is not whole here: a made-up one"
        make_model small "$small_shape" q4_k_m
        model=$work/small.gguf
    fi
    bounded 5 python3 -u tests/gpu/check.py "$forebay" "$model" all "$tokens"
}

# One line: the first GPU, and how many there are.
device_name() {
    local names count
    names=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | sed 's/, / with driver /' | grep .) ||
        names=$("$forebay" devices 2>/dev/null | sed -n "s/:.*//; s/^ *\(${backend}[0-9]\)/\1/Ip" | grep .) || names=$(uname -m)
    count=$(wc -l <<<"$names")
    echo "$(head -n 1 <<<"$names")$([ "$count" = 1 ] || echo ", the first of $count GPUs")"
}

step_measure() {
    local kind=${KIND:-q4_k_m} status=0
    # An earlier command's is in figures, and not this one's.
    rm -f "$OUT/$kind.json" "$OUT/$kind.json.md"
    bounded 5 python3 -u tests/gpu/measure.py --forebay "$forebay" --peer "$peer" --model "$work/$kind.gguf" --log "$log" \
        --title "${kind^^}" --device "$(device_name)" --out "$OUT/$kind.json" --first-round "$((call * 100))" \
        --seconds "$(($(left) * ${PERCENT:-100} / 100 - 15))" --gpu-layers "$([ "$backend" = cpu ] && echo 0 || echo all)" "${load_options[@]}" || status=$?
    [ ! -f "$OUT/$kind.json" ] || { mkdir -p "$work/figures" && cp "$OUT/$kind.json" "$work/figures/$kind-$call.json"; }
    return $status
}

step_breakdown() { bounded 5 "$forebay" bench --model "$work/$costs_kind.gguf" "${breakdown_options[@]}" 2>>"$log"; }

step_costs() {
    bounded 5 "$forebay" bench --model "$work/$costs_kind.gguf" --costs "$OUT/gpu.json" --kv-layout shared "${costs_options[@]}" \
        --seconds "$(($(left) > 180 ? 150 : $(left) * 3 / 4))" 2>>"$log"
    mkdir -p "$work/figures"
    cp "$OUT/gpu.json" "$work/gpu.json"
}

# Of all figures since the machine was new.
step_table() {
    local costs_arguments=()
    compgen -G "$work/figures/*.json" >/dev/null || { echo "nothing was measured: no table"; return 1; }
    # Costs are joined with figures of the same model, and only if there are any.
    if [ -f "$work/gpu.json" ] && compgen -G "$work/figures/$costs_kind-*.json" >/dev/null; then
        costs_arguments=(--costs "${costs_kind^^}=$work/gpu.json")
    fi
    python3 tests/gpu/summary.py "$work"/figures/*.json "${costs_arguments[@]}" | tee "$OUT/summary.md"
}

prepare() {
    step unpack
    step_models >>"$log" 2>&1 &
    local making=$!
    step backend
    if [ "$backend" != cpu ] && ! has_gpu; then
        echo "no GPU: nothing to measure"
        exit 1
    fi
    wait $making || { echo "the models could not be made"; exit 1; }
}

call_1() {
    prepare
    step check
    KIND=q4_k_m step measure
}

call_2() {
    prepare
    KIND=q8_0 PERCENT=55 step measure
    step breakdown
    step costs
    step table
}

call_3() {
    prepare
    step check
    KIND=q4_k_m PERCENT=50 step measure
    KIND=q8_0 PERCENT=95 step measure
    step table
}

[ "${1:-}" != --plan ] || { plan; exit; }
case ${1:-1} in
    [123]) ;;
    *) for name in "$@"; do
        declare -F "step_$name" >/dev/null || { echo "no step is called $name; the steps are: $(steps)"; exit 2; }
    done ;;
esac
mkdir -p "$work" "$OUT"
PATH=$PATH:/usr/local/cuda/bin
LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(library_folders)
export PATH LD_LIBRARY_PATH
case ${1:-1} in
    [123]) call=${1:-1} && "call_$call" ;;
    *) for name in "$@"; do step "$name"; done ;;
esac
