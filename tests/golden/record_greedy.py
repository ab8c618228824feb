"""Records what llama-server answers greedily, for clients/test_greedy.py.

Usage: record_greedy.py URL, of a llama-server that serves SmolLM2 with one slot and no cache
(-np 1 --no-cache-prompt). The answers are kept beside those of the other kind of CPU: with AMX, ggml
multiplies by other kernels, which round otherwise.
"""

import json
import sys
import urllib.request
from pathlib import Path

PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain why the sky is blue.",
    "List three prime numbers.",
    "Translate 'good morning' into Spanish.",
    "Write a Python function that adds two numbers.",
    "Who wrote Hamlet?",
    "What is 12 times 12?",
    "Tell me a short story about a robot.",
    "Give me a recipe for pancakes.",
]


def answer(url, prompt):
    body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 32}
    request = urllib.request.Request(
        url + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def kernels():
    """Which of ggml's CPU kernels this machine runs, as far as they round differently."""
    cpu = Path("/proc/cpuinfo")
    return "amx" if cpu.exists() and " amx_int8" in cpu.read_text() else "other"


def main():
    golden = []
    for prompt in PROMPTS:
        got = answer(sys.argv[1], prompt)
        golden.append(
            {
                "prompt": prompt,
                "text": got["choices"][0]["message"]["content"],
                "prompt_tokens": got["usage"]["prompt_tokens"],
            }
        )
    out = Path(__file__).parent / "greedy.json"
    recorded = json.loads(out.read_text()) if out.exists() else {}
    recorded[kernels()] = golden
    out.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
