#!/usr/bin/env bash
# CUDA's compiler and libraries from PyPI into the folder $1, laid out as an installed toolkit: for compiling
# where NVIDIA's own packages are not to be had. Nothing runs with it that needs a GPU.
set -euo pipefail
out=$1
[ ! -e "$out/.ready" ] || exit 0
rm -rf "$out" "$out.wheels"
"${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --target "$out.wheels" \
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 \
    nvidia-cuda-cccl==13.0.85 nvidia-cublas==13.1.2.11
mv "$out.wheels/nvidia/cu13" "$out"
rm -rf "$out.wheels"
cd "$out/lib"
for library in *.so.*; do
    ln -sf "$library" "${library%.so.*}.so"
done
ln -s lib ../lib64
# The driver's library is linked by name, and the driver brings it. Here its functions only say that there is no
# device (100); without them the linker would leave the library out, and what was built could not be loaded.
mkdir -p stubs
grep -oE '\bcu[A-Z][A-Za-z0-9_]* *\(' ../include/cuda.h | tr -d ' (' | sort -u | sed 's/.*/int &(void) { return 100; }/' |
    gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -x c - -o stubs/libcuda.so
ln -s libcuda.so stubs/libcuda.so.1
touch ../.ready
