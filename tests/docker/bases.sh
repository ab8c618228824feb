#!/usr/bin/env bash
# Base images for docker/Dockerfile where no registry can be reached: Debian's minimal system by
# debootstrap, with this machine's certificates, and for the builder this machine's Rust. Needs root.
set -euo pipefail
cd "$(dirname "$0")/../.."
both="debian:bookworm debian:bookworm-slim"
# shellcheck disable=SC2086
docker image inspect $both >/dev/null 2>&1 && exit 0
if docker pull --quiet debian:bookworm-slim >/dev/null 2>&1; then
    docker pull --quiet debian:bookworm >/dev/null
    exit 0
fi
echo "no registry: making the base images here"
command -v debootstrap >/dev/null || apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
root=$(mktemp -d)
chmod 755 "$root"
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates bookworm "$root" >/dev/null
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" -c . | docker import - debian:bookworm-slim >/dev/null
channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
toolchain="$channel-$(rustc -vV | sed -n 's/^host: //p')"
mkdir -p "$root/usr/local/rustup/toolchains/$toolchain" "$root/usr/local/cargo/bin"
sysroot=$(rustc --print sysroot)
tar -C "$sysroot" -c --exclude=share . | tar -C "$root/usr/local/rustup/toolchains/$toolchain" -x
ln -s "../../rustup/toolchains/$toolchain/bin/"{cargo,rustc,rustdoc} "$root/usr/local/cargo/bin/"
tar -C "$root" -c . | docker import - debian:bookworm >/dev/null
