"""Greedy answers with layers on the GPU and with none, ten prompts: check.py FOREBAY MODEL.gguf [LAYERS [TOKENS]]

Where they part, the two next tokens have to be nearly as likely as each other: rounding decides then.
"""

import json
import subprocess
import sys
import urllib.request

from itertools import zip_longest

from measure import Server

# Of the logarithm of a probability. A CPU rounds what it multiplies quantised weights with to 8 bits.
NEAR = 0.3
PROMPTS = [
    "The capital of France is", "def fibonacci(n):\n", "Once upon a time, there was", "Water boils at",
    "The three primary colours are", "In 1969, humans first", "A recipe for bread:\n1.", "To be or not to be,",
    "The quick brown fox", "Photosynthesis is the process by which",
]


def answer(port, prompt, tokens):
    body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": 2}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    logprobs = json.load(urllib.request.urlopen(request, timeout=300))["choices"][0]["logprobs"]
    return logprobs["tokens"], logprobs["top_logprobs"]


def answers(forebay, model, layers, tokens):
    command = [forebay, "serve", "--model", f"m={model}", "--gpu-layers", layers, "--parallel", "1"]
    server = Server(command, subprocess.DEVNULL)
    try:
        return [answer(server.port, prompt, tokens) for prompt in PROMPTS]
    finally:
        server.stop()


def main(forebay, model, layers="all", tokens=64):
    cpu, gpu = (answers(forebay, model, number, int(tokens)) for number in ("0", layers))
    same, bad = 0, []
    for prompt, (tokens, tops), (others, _) in zip(PROMPTS, cpu, gpu):
        parts = next((at for at, (a, b) in enumerate(zip_longest(tokens, others)) if a != b), None)
        if parts is None:
            same += 1
            continue
        likely = sorted(tops[parts].values(), reverse=True)
        gap = likely[0] - likely[1]
        print(f"{prompt!r} parts at token {parts}: {tokens[parts]!r} or {others[parts]!r}, {gap:.3f} apart")
        if gap > NEAR or others[parts] not in tops[parts]:
            bad.append(prompt)
    print(f"{same} of {len(PROMPTS)} equal, {len(bad)} differ by more than rounding")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
