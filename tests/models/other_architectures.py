"""Writes a tiny GGUF file of an architecture that keeps something else than keys and values of all tokens in all
layers: other_architectures.py FILE mamba|gemma3|jamba

Its weights are random; what matters is what llama.cpp allocates for it.
"""

import struct
import sys

import random_gguf
from random_gguf import ARRAY, F32, FLOAT, STRING, U32

WIDTH, LAYERS, VOCAB, INNER, STATE, RANK, KERNEL = 64, 6, 512, 128, 16, 4, 4
HEADS, KV_HEADS, HEAD = 4, 2, 16


def attention(block):
    yield f"{block}attn_q.weight", (WIDTH, HEADS * HEAD)
    yield f"{block}attn_k.weight", (WIDTH, KV_HEADS * HEAD)
    yield f"{block}attn_v.weight", (WIDTH, KV_HEADS * HEAD)
    yield f"{block}attn_output.weight", (HEADS * HEAD, WIDTH)


def network(block):
    yield f"{block}ffn_norm.weight", (WIDTH,)
    yield f"{block}ffn_gate.weight", (WIDTH, INNER)
    yield f"{block}ffn_up.weight", (WIDTH, INNER)
    yield f"{block}ffn_down.weight", (INNER, WIDTH)


def recurrent(block, norms):
    yield f"{block}ssm_in.weight", (WIDTH, 2 * INNER)
    yield f"{block}ssm_conv1d.weight", (KERNEL, INNER)
    yield f"{block}ssm_conv1d.bias", (INNER,)
    yield f"{block}ssm_x.weight", (INNER, RANK + 2 * STATE)
    yield f"{block}ssm_dt.weight", (RANK, INNER)
    yield f"{block}ssm_dt.bias", (INNER,)
    yield f"{block}ssm_a", (STATE, INNER)
    yield f"{block}ssm_d", (INNER,)
    yield f"{block}ssm_out.weight", (INNER, WIDTH)
    for name, width in (("dt", RANK), ("b", STATE), ("c", STATE)):
        if norms:
            yield f"{block}ssm_{name}_norm.weight", (width,)


def layer(architecture, number):
    block = f"blk.{number}."
    yield f"{block}attn_norm.weight", (WIDTH,)
    if architecture == "mamba":
        yield from recurrent(block, norms=False)
    elif architecture == "jamba":
        yield from attention(block) if attends(number) else recurrent(block, norms=True)
        yield from network(block)
    else:
        yield from attention(block)
        yield from network(block)
        for name in ("post_attention_norm", "post_ffw_norm"):
            yield f"{block}{name}.weight", (WIDTH,)
        for name in ("attn_q_norm", "attn_k_norm"):
            yield f"{block}{name}.weight", (HEAD,)


def attends(number):
    """Of jamba, whether a layer attends; the others are recurrent."""
    return number % 3 == 2


def metadata(architecture):
    yield "general.architecture", (STRING,), architecture
    numbers = {"block_count": LAYERS, "embedding_length": WIDTH, "feed_forward_length": INNER, "context_length": 8192,
               "attention.head_count": HEADS, "attention.key_length": HEAD, "attention.value_length": HEAD,
               "vocab_size": VOCAB}
    if architecture == "gemma3":
        numbers |= {"attention.head_count_kv": KV_HEADS, "attention.sliding_window": 512}
    else:
        numbers |= {"ssm.conv_kernel": KERNEL, "ssm.inner_size": INNER, "ssm.state_size": STATE,
                    "ssm.time_step_rank": RANK}
    if architecture == "jamba":
        each = [KV_HEADS if attends(number) else 0 for number in range(LAYERS)]
        yield "jamba.attention.head_count_kv", (ARRAY, U32), each
    for key, value in numbers.items():
        yield f"{architecture}.{key}", (U32,), value
    yield f"{architecture}.attention.layer_norm_rms_epsilon", (FLOAT,), 1e-5
    yield from random_gguf.made_up(VOCAB)


def write(path, architecture):
    tensors = [("token_embd.weight", (WIDTH, VOCAB)), ("output_norm.weight", (WIDTH,))]
    tensors += [tensor for number in range(LAYERS) for tensor in layer(architecture, number)]
    pairs = list(metadata(architecture))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    head += b"".join(random_gguf.pair(*entry) for entry in pairs)
    data = b""
    for name, dims in tensors:
        head += random_gguf.text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, F32, len(data))
        data += b"".join(random_gguf.tensor(name, F32, dims, 0.02))
        data += b"\0" * (-len(data) % 32)
    with open(path, "wb") as file:
        file.write(head + b"\0" * (-len(head) % 32) + data)


if __name__ == "__main__":
    write(*sys.argv[1:])
