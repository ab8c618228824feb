"""Numbers computed outside of llama.cpp: MiniLM in numpy, from the safetensors."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import openai
import pytest
from tokenizers import Tokenizer

TEXTS = [
    "A man is eating food.",
    "The girl is carrying a baby.",
    "llama.cpp runs on a laptop, a server or a phone.",
    "Grüße aus Zürich, 日本語 and ünïcödé!",
    "x",
    "The quick brown fox jumps over the lazy dog. " * 20,
    "1234567890 !@#$%^&*()",
    "def f(x):\n    return x + 1",
]


class MiniLM:
    """Six BERT layers, mean pooling, normalisation."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        data = (folder / "model.safetensors").read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        self.weights = {}
        for name, entry in json.loads(data[8 : 8 + size]).items():
            if name != "__metadata__" and entry["dtype"] == "F32":
                begin, end = entry["data_offsets"]
                array = np.frombuffer(data[8 + size + begin : 8 + size + end], dtype="<f4")
                self.weights[name] = array.reshape(entry["shape"]).astype(np.float64)

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.config["layer_norm_eps"])
        return scaled * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def layer(self, x, name):
        heads = self.config["num_attention_heads"]
        split = lambda t: t.reshape(len(t), heads, -1).transpose(1, 0, 2)
        q, k, v = (split(self.linear(x, f"{name}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        mixed = self.linear(mixed.transpose(1, 0, 2).reshape(len(x), -1), f"{name}.attention.output.dense")
        x = self.norm(x + mixed, f"{name}.attention.output.LayerNorm")
        wide = self.linear(x, f"{name}.intermediate.dense")
        wide = 0.5 * wide * (1 + np.vectorize(__import__("math").erf)(wide / np.sqrt(2)))
        return self.norm(x + self.linear(wide, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def encode(self, ids):
        table = lambda kind: self.weights[f"embeddings.{kind}_embeddings.weight"]
        x = table("word")[ids] + table("position")[: len(ids)] + table("token_type")[0]
        x = self.norm(x, "embeddings.LayerNorm")
        for index in range(self.config["num_hidden_layers"]):
            x = self.layer(x, f"encoder.layer.{index}")
        return x

    def embed(self, text):
        ids = self.tokenizer.encode(text).ids
        x = self.encode(ids)
        pooled = x.mean(0)
        return ids, pooled / np.linalg.norm(pooled)


@pytest.fixture(scope="module")
def reference():
    return MiniLM(Path(os.environ["TEST_MODEL_SOURCES"]) / "minilm")


def test_embeddings_are_the_models_own(client, reference):
    answer = client.embeddings.create(model="minilm", input=TEXTS)
    for text, item in zip(TEXTS, answer.data):
        _, expected = reference.embed(text)
        cosine = float(np.dot(expected, item.embedding))
        assert cosine > 0.999, (text, cosine)


def test_a_rerankers_scores_are_the_models_own(start, models, reference, tmp_path):
    ranker_script = Path(__file__).resolve().parent.parent / "models/ranker.py"
    model = tmp_path / "ranker.gguf"
    subprocess.run([sys.executable, ranker_script, models["embedding"], model], check=True)
    spec = importlib.util.spec_from_file_location("ranker", ranker_script)
    ranker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ranker)
    head = ranker.head(384)
    server = start(str(model))
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)
    query, documents = "What is a panda?", [text for text in TEXTS if len(text) < 300]
    answer = client.post("/rerank", body={"model": "m", "query": query, "documents": documents}, cast_to=object)
    assert answer["method"] == "reranker"
    scores = [each["relevance_score"] for each in answer["results"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == len(documents)
    for each in answer["results"]:
        question, document = (reference.tokenizer.encode(text).ids for text in (query, documents[each["index"]]))
        first = reference.encode([*question, *document[1:]])[0]
        pooled = np.tanh(head["cls.weight"] @ first + head["cls.bias"])
        logit = float((head["cls.output.weight"] @ pooled + head["cls.output.bias"])[0])
        assert abs(each["relevance_score"] - 1 / (1 + np.exp(-logit))) < 0.01, (each, logit)
    with pytest.raises(openai.BadRequestError, match="is a reranker: it makes no vectors"):
        client.embeddings.create(model="m", input="x")
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/rerank", body={"model": "m", "query": query, "documents": ["a", "b " * 600]}, cast_to=object)
    assert refused.value.param == "documents[1]"
    # No more than an embedding model takes.
    with pytest.raises(openai.BadRequestError, match="can hold at most") as refused:
        client.post("/rerank", body={"model": "m", "query": query, "documents": ["a"] * 5000}, cast_to=object)
    assert refused.value.param == "documents"
    assert client.models.retrieve("m").kind == "reranker"


def test_tokens_are_the_models_own(client, reference):
    for text in TEXTS:
        ids, _ = reference.embed(text)
        got = client.post("/tokenize", body={"model": "minilm", "prompt": text}, cast_to=object)
        assert got["tokens"] == ids, text
