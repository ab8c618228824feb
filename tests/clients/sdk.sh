#!/usr/bin/env bash
# The OpenAI Python SDK's own tests, of the version in tests/requirements.txt, into the folder $1.
set -euo pipefail
folder=$1
here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n 's/^openai==//p' "$here/../requirements.txt")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps \
    --no-binary openai --dest "$work" "openai==$version"
rm -rf "$folder"
mkdir -p "$folder"
tar xzf "$work"/openai-*.tar.gz -C "$folder" --strip-components=1 --wildcards '*/tests/*' '*/pyproject.toml'
