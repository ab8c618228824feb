"""Models with random weights: the same bytes each time, weights of the size that is asked for, and
answers that no server can guess."""

import subprocess
import sys

import pytest
from conftest import REPO, Server, required

SCRIPT = REPO / "tests/models/random_gguf.py"
CHAT = [{"role": "user", "content": "Name three colours."}]


def make(path, *arguments):
    subprocess.run([sys.executable, SCRIPT, path, *arguments], check=True)
    return path


@pytest.mark.parametrize("shape", ["tiny", "tiny-qwen"])
@pytest.mark.parametrize("kind", ["q4_k_m", "q8_0"])
def test_weights_are_what_they_should_be(tmp_path, shape, kind):
    gguf = pytest.importorskip("gguf")
    first, second = (make(tmp_path / f"{n}.gguf", "--shape", shape, "--kind", kind) for n in (1, 2))
    assert first.read_bytes() == second.read_bytes()
    kinds = set()
    for tensor in gguf.GGUFReader(first).tensors:
        kinds.add(tensor.tensor_type.name)
        if len(tensor.shape) == 2:
            weights = gguf.dequantize(tensor.data, tensor.tensor_type)
            wanted = float(tensor.shape[0]) ** -0.5 * (0.25 if "attn_output" in tensor.name else 1)
            wanted = 0.02 if tensor.name == "token_embd.weight" else wanted
            assert weights.std() == pytest.approx(wanted, rel=0.06), tensor.name
            # Four times what chance makes of so many.
            assert abs(weights.mean()) < (0.004 + 4 / weights.size**0.5) * wanted, tensor.name
    # Rows of 96 weights are no multiple of 256 long, those of 512 are.
    mixed = {"Q5_0", "Q8_0", "Q4_K", "Q6_K"} if shape == "tiny-qwen" else {"Q4_K", "Q6_K"}
    assert kinds == {"F32"} | (mixed if kind == "q4_k_m" else {"Q8_0"})


def test_a_vocabulary_that_is_larger_than_the_shapes_is_refused(tmp_path):
    chat = required("TEST_CHAT_MODEL")
    command = [sys.executable, SCRIPT, tmp_path / "m.gguf", "--shape", "tiny", "--vocabulary", chat]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "49152 tokens, more than the shape's 2048" in done.stderr


def test_a_borrowed_vocabulary_is_spoken_to_the_end(tmp_path):
    import openai

    model = make(tmp_path / "m.gguf", "--shape", "tiny-qwen", "--vocabulary", required("TEST_CHAT_MODEL"))
    server = Server("--model", f"m={model}", "--parallel", "2", "-c", "2048")
    try:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
        answer = client.chat.completions.create(
            model="m", messages=CHAT, max_tokens=200, temperature=0.7, seed=1, logprobs=True,
            extra_body={"ignore_eos": True},
        )
    finally:
        server.stop()
    assert answer.usage.completion_tokens == 200
    tokens = [entry.token for entry in answer.choices[0].logprobs.content]
    assert len(set(tokens)) > 150, "an answer that repeats itself is guessed by drafts, and measures nothing"
