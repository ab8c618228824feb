#!/usr/bin/env bash
# Builds the CPU image and runs it as a cluster would: read-only, as its own user, without
# capabilities. Then drives it with the OpenAI SDK. Prints the image's size and how long a start
# takes. Usage: test.sh PYTHON CHAT_MODEL.gguf
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1 model=$(realpath "$2") port=${PORT:-18181} name=forebay-test-$$
stop() {
    docker rm --force "$name" >/dev/null 2>&1 || true
    stop_engine
}
trap stop EXIT
# shellcheck source=tests/docker/engine.sh
. tests/docker/engine.sh
tests/docker/bases.sh

revision=$(git rev-parse HEAD)
# The classic builder: it needs no plugin, and it knows the host's network.
DOCKER_BUILDKIT=0 docker build --quiet --network host --file docker/Dockerfile --tag forebay:cpu \
    --build-arg VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" \
    --build-arg REVISION="$revision" --build-arg CREATED="$(date -u +%FT%TZ)" . >/dev/null

docker create --name "$name" --network host --read-only --cap-drop ALL \
    --security-opt no-new-privileges --tmpfs /tmp:size=64m,noexec,nosuid \
    --volume "$(dirname "$model"):/models:ro" --env FOREBAY_SERVER__PORT="$port" \
    --env FOREBAY_SERVER__DRAIN_DELAY_S=1 \
    forebay:cpu serve --model "smollm2=/models/$(basename "$model")" >/dev/null
"$python" tests/docker/drive.py "$name" "$port"
echo "image: $(docker image inspect forebay:cpu --format '{{.Size}}' | awk '{printf "%.0f MB", $1 / 1e6}')"
