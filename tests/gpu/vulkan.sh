#!/usr/bin/env bash
# What Vulkan without a GPU needs, on Debian: the compiler of shaders, the loader, Mesa's software driver
# (lavapipe), and headers into the folder $1. Nothing is installed that already is.
set -euo pipefail
out=$1
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
mkdir -p "$out"
packages=""
command -v glslc >/dev/null || packages="$packages glslc"
compgen -G '/usr/share/vulkan/icd.d/lvp_icd*.json' >/dev/null || packages="$packages mesa-vulkan-drivers"
[ -e /usr/include/vulkan/vulkan.h ] || packages="$packages libvulkan-dev"
[ -e /usr/include/spirv/unified1/spirv.hpp ] || packages="$packages spirv-headers"
if [ -n "$packages" ]; then
    echo "installing:$packages"
    $sudo apt-get update -qq
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi

# llama.cpp's Vulkan backend needs newer headers than Debian 12 has; those of Debian 13 are used to compile
# alone, and come with lists of packages of their own, so that the machine's stay as they are.
header_version() { sed -n 's/^#define VK_HEADER_VERSION \([0-9]*\)$/\1/p' "$1/vulkan/vulkan_core.h" 2>/dev/null || true; }
least=275 # VK_EXT_layer_settings with the names that ggml uses
[ "$(header_version /usr/include)" -lt "$least" ] || exit 0
[ "$(header_version "$out/usr/include" | grep . || echo 0)" -lt "$least" ] || exit 0
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' 'Created-By: Packages' | head -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive trixie main" >"$work/sources.list"
apt() {
    apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$work/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
}
apt update
(cd "$work" && apt download libvulkan-dev && dpkg-deb -x libvulkan-dev_*.deb "$out")
