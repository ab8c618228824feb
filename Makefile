# The three commands: `make run`, `make test`, `make bench`. See CONTRIBUTING.md.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Models, Python packages and compiler results outlive the build tree.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/forebay
MODELS := $(CACHE)/models
VENV := $(CACHE)/venv
TOOLS := $(CACHE)/tools
TEMPLATES := $(CACHE)/templates-11434
SDK := $(CACHE)/openai-$(shell sed -n 's/^openai==//p' tests/requirements.txt)
CHAT_MODEL := $(MODELS)/smollm2-135m-instruct-q4_1.gguf
EMBEDDING_MODEL := $(MODELS)/all-minilm-l6-v2.gguf
FOREBAY := target/release/forebay
CARGO_DENY_VERSION := 0.20.2
CARGO_AUDIT_VERSION := 0.22.2

# ccache remembers llama.cpp's kernels when the build tree is gone.
export CMAKE_C_COMPILER_LAUNCHER ?= ccache
export CMAKE_CXX_COMPILER_LAUNCHER ?= ccache
export CCACHE_DIR ?= $(CACHE)/ccache
export TEST_BINARY := $(CURDIR)/$(FOREBAY)
export TEST_CHAT_MODEL := $(CHAT_MODEL)
export TEST_EMBEDDING_MODEL := $(EMBEDDING_MODEL)
export TEST_MODEL_SOURCES := $(MODELS)/sources
export TEST_TEMPLATES := $(TEMPLATES)
export TEST_SDK := $(SDK)
export TEST_RENDER := $(CURDIR)/target/release/examples/render

CARGO := cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PYTHON := $(VENV)/bin/python

.PHONY: help
help:
	@echo "make run    build, get two small models, serve them on http://127.0.0.1:8080"
	@echo "make test   everything that CI runs"
	@echo "make hostile   hostile requests beside ordinary ones, with figures (HOSTILE=\"--only NAME\")"
	@echo "make soak   all endpoints for MINUTES while engines are killed (SOAK=\"--kills N --seed N\")"
	@echo "make docker-test   the container image, built and run"
	@echo "make gpu-test   a GPU's code on Vulkan's software driver"
	@echo "make fuzz   the fuzz targets, each for FUZZ_SECONDS of processor time"
	@echo "make bench  forebay and llama-server side by side (LLAMA_SERVER=path/to/llama-server)"

# --- What the build needs -------------------------------------------------------------------

# Each by what shows that it is there. Nothing is installed that already is.
.PHONY: deps
deps:
	@missing=""; \
	need() { if ! eval "$$1" >/dev/null 2>&1; then echo "needs $$2: $$3"; missing="$$missing $$2"; fi; }; \
	need "command -v cmake" cmake "llama.cpp is built with it"; \
	need "compgen -G '/usr/lib/llvm-*/lib/libclang.so'" libclang-dev "makes its C functions callable from Rust"; \
	need "command -v ccache" ccache "a second build of llama.cpp then takes seconds"; \
	need "command -v g++" g++ "llama.cpp is C++"; \
	need "command -v curl" curl "the first example and a test use it"; \
	need "python3 -c 'import ensurepip, venv'" python3-venv "models are fetched and converted in Python"; \
	if [ -n "$$missing" ]; then \
	    echo "installing:$$missing"; \
	    $(SUDO) apt-get update -qq; \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
	@command -v $(CARGO) >/dev/null || { echo "needs a Rust toolchain: https://rustup.rs"; exit 1; }

# A browser for the test of the documentation page.
.PHONY: browser
browser:
	@command -v chromium >/dev/null || { echo "needs chromium: a test opens the documentation page"; \
	    $(SUDO) apt-get update -qq; \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

$(VENV)/.ready: tests/requirements.txt | deps
	@rm -rf $(VENV); mkdir -p $(CACHE)
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

# instructor holds older versions of what the other clients use.
INSTRUCTOR := $(CACHE)/instructor
export TEST_INSTRUCTOR := $(INSTRUCTOR)/bin/python

$(INSTRUCTOR)/.ready: tests/instructor/requirements.txt | deps
	@rm -rf $(INSTRUCTOR); mkdir -p $(CACHE)
	python3 -m venv $(INSTRUCTOR)
	$(INSTRUCTOR)/bin/pip install --quiet --disable-pip-version-check -r tests/instructor/requirements.txt
	@touch $@

# --- Models ---------------------------------------------------------------------------------

.PHONY: models
models: $(CHAT_MODEL) $(EMBEDDING_MODEL)

$(CHAT_MODEL) $(EMBEDDING_MODEL) &: tests/models/fetch.sh tests/models/minilm_to_gguf.py | deps
	tests/models/fetch.sh $(MODELS) $(CACHE)/models-venv

# Chat templates of some seventy models.
$(TEMPLATES)/.ready: tests/models/templates.sh | $(VENV)/.ready
	PYTHON=$(PYTHON) tests/models/templates.sh $(TEMPLATES)
	@touch $@

# The OpenAI SDK's own tests.
$(SDK)/.ready: tests/clients/sdk.sh | $(VENV)/.ready
	PYTHON=$(PYTHON) tests/clients/sdk.sh $(SDK)
	@touch $@

# --- Build and run --------------------------------------------------------------------------

.PHONY: build
build: deps
	$(CARGO) build --release --locked

.PHONY: run
run: build models
	@tests/models/hello.sh & \
	exec $(FOREBAY) serve --model smollm2=$(CHAT_MODEL) --model minilm=$(EMBEDDING_MODEL)

# --- Tests ----------------------------------------------------------------------------------

.PHONY: test
test: lint unit fuzz licences blackbox

.PHONY: lint
lint: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps --quiet

.PHONY: unit
unit: deps
	$(CARGO) test --release --locked --workspace --features forebay-engine/scripted --quiet

# Without llama.cpp, in a target folder of its own. Ten minutes each: make fuzz FUZZ_SECONDS=600
# `make test` begins with the same seed every time: what it says is about the change, not about luck.
FUZZ_SECONDS ?= 5
FUZZ_SEED ?= 0
test: FUZZ_SEED = 1
.PHONY: fuzz
fuzz: deps
	tests/fuzz/run.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

$(TOOLS)/bin/cargo-deny-$(CARGO_DENY_VERSION):
	$(CARGO) install --locked --quiet --root $(TOOLS) cargo-deny --version $(CARGO_DENY_VERSION)
	@touch $@

$(TOOLS)/bin/cargo-audit-$(CARGO_AUDIT_VERSION):
	$(CARGO) install --locked --quiet --root $(TOOLS) cargo-audit --version $(CARGO_AUDIT_VERSION)
	@touch $@

# Known vulnerabilities are listed on GitHub; without a way there only the rest is checked, and
# that is said.
ADVISORIES := https://github.com/rustsec/advisory-db

.PHONY: licences
licences: $(TOOLS)/bin/cargo-deny-$(CARGO_DENY_VERSION)
	PATH="$(TOOLS)/bin:$$PATH" $(CARGO) deny --locked check bans licenses sources
	@if timeout 20 git ls-remote --exit-code $(ADVISORIES) HEAD >/dev/null 2>&1; then \
	    PATH="$(TOOLS)/bin:$$PATH" $(CARGO) deny --locked check advisories; \
	    $(MAKE) audit; \
	else echo "NOT CHECKED: advisories; $(ADVISORIES) cannot be reached"; fi

.PHONY: audit
audit: $(TOOLS)/bin/cargo-audit-$(CARGO_AUDIT_VERSION)
	PATH="$(TOOLS)/bin:$$PATH" $(CARGO) audit

# The image, built and run on a Docker engine; needs root where none runs. Not in `make test`.
.PHONY: docker-test
docker-test: $(VENV)/.ready models
	tests/docker/test.sh $(PYTHON) $(CHAT_MODEL)

.PHONY: blackbox
blackbox: build models browser $(VENV)/.ready $(TEMPLATES)/.ready $(SDK)/.ready $(INSTRUCTOR)/.ready
	$(CARGO) build --release --locked -p forebay-chat --example render --example calls
	PATH="$(VENV)/bin:$$PATH" npm ci --prefix tests/node --silent --no-audit --no-fund
	PATH="$(VENV)/bin:$$PATH" $(PYTHON) -m pytest tests -q -p no:asyncio

# A part of it is in `make blackbox`.
.PHONY: hostile
hostile: build models $(VENV)/.ready
	$(PYTHON) tests/hostile/run.py $(HOSTILE)

# A minute of it is in `make blackbox`.
MINUTES ?= 20
.PHONY: soak
soak: build models $(VENV)/.ready
	$(PYTHON) tests/soak/run.py --minutes $(MINUTES) $(SOAK)

# A GPU's code without a GPU: Vulkan on Mesa's software driver. Not in `make test`: it compiles llama.cpp and
# its kernels for that, half an hour on two cores.
VULKAN := $(CACHE)/vulkan
GPU_BUILD := $(CURDIR)/target/vulkan
GPU_INSTALLED := $(GPU_BUILD)/installed/usr
.PHONY: gpu-test
gpu-test: deps models $(VENV)/.ready
	tests/gpu/vulkan.sh $(VULKAN)
	CMAKE_INCLUDE_PATH=$(VULKAN)/usr/include CARGO_TARGET_DIR=$(GPU_BUILD) \
	    $(CARGO) build --release --locked --features vulkan,dynamic-backends
	rm -rf $(GPU_BUILD)/installed
	docker/collect.sh $(GPU_BUILD)/release $(GPU_BUILD)/installed
	TEST_VULKAN=1 GGML_VK_VISIBLE_DEVICES=0 TEST_BINARY=$(GPU_INSTALLED)/bin/forebay \
	    LD_LIBRARY_PATH=$(GPU_INSTALLED)/lib/forebay $(PYTHON) -m pytest tests/gpu -q -p no:asyncio

# --- Figures --------------------------------------------------------------------------------

# A part of it is only printed: make bench LLAMA_SERVER=... BENCH="--scenarios short --model-shape qwen-0.5b"
BENCH ?=
.PHONY: bench
bench: build models $(VENV)/.ready
	$(PYTHON) tests/bench/compare.py --forebay $(FOREBAY) --peer "$${LLAMA_SERVER:?path to llama-server}" \
	    --chat $(CHAT_MODEL) --embedding $(EMBEDDING_MODEL) \
	    $(or $(BENCH),--plot docs/itl-mixed.svg --write docs/performance.md)
