"""The containers' files: what their linters say, and that the two images are made the same way.
`make docker-test` builds one and runs it."""

import subprocess
from pathlib import Path

import pytest

DOCKER = Path(__file__).resolve().parent.parent / "docker"
IMAGES = ["Dockerfile", "Dockerfile.cuda"]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", IMAGES)
def test_hadolint(name):
    run("hadolint", str(DOCKER / name))


def test_compose_follows_its_schema():
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DOCKER / "compose.yaml"))


def test_the_images_differ_in_base_and_backend_alone():
    """What is the same was run by `make docker-test` for the one that needs no GPU."""
    files = [(DOCKER / name).read_text().splitlines() for name in IMAGES]
    assert len(files[0]) == len(files[1])
    different = [(a, b) for a, b in zip(*files) if a != b]
    begins = ("# An image", "ARG BUILDER_IMAGE", "ARG RUNTIME_IMAGE", "ARG FEATURES", "# Nothing else", "ENV NVIDIA",
              "# Kernels", "ARG CMAKE_CUDA")
    assert 0 < len(different) <= 6
    for a, b in different:
        assert a.startswith(begins) and b.startswith(begins), (a, b)


def test_sources_that_the_images_need_are_sent():
    ignored = (DOCKER.parent / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for line in ignored[1:]:
        assert line.startswith("!") and list(DOCKER.parent.glob(line[1:])), line
