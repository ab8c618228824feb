#!/bin/sh
# Puts what a build with dynamic backends made into the folder $2 as it is laid out in an image; $1 is
# cargo's folder of the profile. Backends are loaded when the program starts, the rest is linked.
set -eu
out=$2
built=$(ls -td "$1"/build/llama-cpp-sys-2-*/out | head -n 1)
mkdir -p "$out/usr/bin" "$out/usr/lib/forebay"
cp "$1/forebay" "$out/usr/bin/"
cp -P "$built"/lib*/lib*.so* "$out/usr/lib/forebay/"
# llama.cpp's command line helpers: nothing of ours is linked with them.
rm -f "$out"/usr/lib/forebay/libllama-common*
cp "$built"/backends/*.so "$out/usr/lib/forebay/"
strip "$out/usr/bin/forebay" "$out"/usr/lib/forebay/*.so*
