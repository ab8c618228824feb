"""Writes a GGUF file of the shape of a well-known model with random weights: as large and as slow as
the real one, and nothing to fetch. The same arguments give the same bytes, on any number of processors.

Usage: random_gguf.py FILE [--shape NAME] [--kind q4_k_m|q8_0] [--vocabulary MODEL.gguf]

Nothing but Python's own library, unless `--vocabulary` borrows another model's tokenizer and chat
template (gguf): where a GPU is lent, there may be nothing else.
"""

import argparse
import concurrent.futures
import math
import os
import random
import struct
import sys
import time

F32, Q5_0, Q8_0, Q4_K, Q6_K = 0, 6, 8, 12, 14
U32, INT32, FLOAT, STRING, ARRAY = 4, 5, 6, 8, 9
# Elements of a block, and its bytes.
BLOCKS = {F32: (1, 4), Q5_0: (32, 22), Q8_0: (32, 34), Q4_K: (256, 144), Q6_K: (256, 210)}
# The standard deviation of a block's weights whose scale is 1.
SPREAD = {Q5_0: 9.23, Q8_0: 73.9, Q4_K: 168.4, Q6_K: 88.0}
# What llama.cpp's quantiser takes where rows are no multiple of 256 long.
SHORT_ROWS = {Q4_K: Q5_0, Q6_K: Q8_0}
# Embeddings are small beside what the layers add, or a model with tied ones would repeat its last token.
EMBEDDING = 0.02
# The standard deviation of logits: some tokens are clearly ahead, as in a real model.
LOGITS = 3.0
CHUNK = 4096
# Bytes from which on tensors are made in processes of their own.
PROCESSES_PAY = 1 << 26

SHAPES = {
    "llama-8b": {"layers": 32, "width": 4096, "inner": 14336, "heads": 32, "kv_heads": 8, "vocab": 128256,
                 "context": 131072},
    "llama-1b": {"layers": 16, "width": 2048, "inner": 8192, "heads": 32, "kv_heads": 8, "vocab": 128256,
                 "context": 131072, "tied": True},
    "qwen-0.5b": {"layers": 24, "width": 896, "inner": 4864, "heads": 14, "kv_heads": 2, "vocab": 151936,
                  "context": 32768, "tied": True, "architecture": "qwen2", "rope": 1e6},
    # The relations of llama-8b and its vocabulary, narrow: to try without a GPU what is meant for one.
    "llama-8b-narrow": {"layers": 4, "width": 512, "inner": 1792, "heads": 4, "kv_heads": 1, "vocab": 128256,
                        "context": 131072},
    "tiny": {"layers": 3, "width": 512, "inner": 1024, "heads": 8, "kv_heads": 2, "vocab": 2048, "context": 4096},
    # Little to compute, and a large vocabulary to choose from.
    "wide": {"layers": 1, "width": 256, "inner": 512, "heads": 4, "kv_heads": 2, "vocab": 128256, "context": 4096,
             "tied": True},
    "tiny-qwen": {"layers": 3, "width": 96, "inner": 256, "heads": 6, "kv_heads": 2, "vocab": 50000, "context": 4096,
                  "tied": True, "architecture": "qwen2"},
}


def blocks(rng, kind, count, deviation):
    """`count` blocks of random weights around zero."""
    _, size = BLOCKS[kind]
    # What `randbytes` gives, which Python has from 3.9 on.
    data = bytearray(rng.getrandbits(8 * count * size).to_bytes(count * size, "little"))

    def fill(at, value):
        for index, byte in enumerate(value):
            data[at + index :: size] = bytes([byte]) * count

    def fill_signed(at, scale):
        # Their weights reach one further down than up: with either sign the mean is zero, or what all
        # have in common grows from layer to layer until every token is the same.
        low, high = struct.pack("<e", scale)
        fill(at, [low])
        data[at + 1 :: size] = data[at + 1 :: size].translate(bytes(high | byte & 128 for byte in range(256)))

    scale = deviation / SPREAD[kind]
    if kind == Q4_K:
        # A block's minimum is the middle of its range, 7.5, times its scale: eight of 6 bits each, packed.
        fill(0, struct.pack("<ee", scale, 7.5 * scale))
        same = bytes((byte & 15) * 17 for byte in range(256))
        for index in range(4):
            data[8 + index :: size] = data[4 + index :: size]
            data[12 + index :: size] = data[12 + index :: size].translate(same)
    elif kind == Q6_K:
        signed = bytes((byte % 17 - 8) & 255 for byte in range(256))
        for index in range(192, 208):
            data[index::size] = data[index::size].translate(signed)
        fill_signed(208, scale)
    else:
        fill_signed(0, scale)
    return data


def tensor(name, kind, dims, value):
    """The bytes of a tensor in pieces: weights around zero with `value` as their standard deviation, or
    floats of that value."""
    elements, _ = BLOCKS[kind]
    assert dims[0] % elements == 0, (name, kind, dims)
    left = math.prod(dims) // elements
    rng = random.Random(name)
    while left > 0:
        count = min(left, CHUNK)
        yield struct.pack("<f", value) * count if kind == F32 else blocks(rng, kind, count, value)
        left -= count


def tensors(shape, kind):
    """Names, kinds, dimensions and values; `q4_k_m` mixes as llama.cpp's quantiser does."""
    width, inner, layers, tied = (shape.get(key) for key in ("width", "inner", "layers", "tied"))
    kv = width // shape["heads"] * shape["kv_heads"]
    plain, fine = (Q8_0, Q8_0) if kind == "q8_0" else (Q4_K, Q6_K)

    def matrix(name, its, row, rows, deviation=None):
        # By default a product is as long as what is multiplied.
        return name, SHORT_ROWS.get(its, its) if row % 256 else its, (row, rows), deviation or row**-0.5

    yield matrix("token_embd.weight", fine if tied else plain, width, shape["vocab"], EMBEDDING)
    for layer in range(layers):
        # An eighth at each end, and every third between, in the finer kind.
        better = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        block = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            yield f"{block}{name}.weight", F32, (width,), 1.0
        for name, its, row, rows in [
            ("attn_q", plain, width, width), ("attn_k", plain, width, kv),
            ("attn_v", fine if better else plain, width, kv), ("ffn_gate", plain, width, inner),
            ("ffn_up", plain, width, inner), ("ffn_down", fine if better else plain, inner, width),
        ]:
            yield matrix(f"{block}{name}.weight", its, row, rows)
        # Attention adds means over all tokens: more of them, and one token would be like the other.
        yield matrix(f"{block}attn_output.weight", plain, width, width, 0.25 * width**-0.5)
        if shape.get("architecture") == "qwen2":
            for name, rows in (("attn_q", width), ("attn_k", kv), ("attn_v", kv)):
                yield f"{block}{name}.bias", F32, (rows,), 0.02
    output = EMBEDDING if tied else width**-0.5
    yield "output_norm.weight", F32, (width,), LOGITS / (output * width**0.5)
    if not tied:
        yield matrix("output.weight", fine, width, shape["vocab"])


def text(value):
    value = value.encode()
    return struct.pack("<Q", len(value)) + value


SCALARS = {
    U32: lambda value: struct.pack("<I", value), INT32: lambda value: struct.pack("<i", value),
    FLOAT: lambda value: struct.pack("<f", value), STRING: text, 7: lambda value: struct.pack("<?", value),
}


def pair(key, kinds, value):
    """A key with its value; `kinds` are its kind and, of an array, that of its items."""
    if kinds[0] == ARRAY:
        items = b"".join(map(SCALARS[kinds[1]], value))
        return text(key) + struct.pack("<IIQ", ARRAY, kinds[1], len(value)) + items
    return text(key) + struct.pack("<I", kinds[0]) + SCALARS[kinds[0]](value)


def made_up(size):
    """A tokenizer of `size` tokens: unknown, begin, end, the bytes, and words."""
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    names += [f"\u2581w{number}" for number in range(size - len(names))]
    yield "tokenizer.ggml.model", (STRING,), "llama"
    yield "tokenizer.ggml.tokens", (ARRAY, STRING), names
    yield "tokenizer.ggml.scores", (ARRAY, FLOAT), [-float(index) for index in range(size)]
    yield "tokenizer.ggml.token_type", (ARRAY, INT32), [2, 3, 3] + [6] * 256 + [1] * (size - 259)
    for key, token in {"bos": 1, "eos": 2, "unknown": 0}.items():
        yield f"tokenizer.ggml.{key}_token_id", (U32,), token
    yield "tokenizer.chat_template", (STRING,), "{% for m in messages %}{{ m.content }}{% endfor %}"


def borrowed(source, size):
    """The tokenizer and chat template of the GGUF file `source`. Up to `size` it is filled with words that
    no merge leads to: no prompt has them, but an answer may."""
    from gguf import GGUFReader

    for key, field in GGUFReader(source).fields.items():
        value = field.contents() if key.startswith("tokenizer.") else None
        if key == "tokenizer.ggml.tokens":
            if len(value) > size:
                sys.exit(f"{source} has {len(value)} tokens, more than the shape's {size}")
            value += [f"\u0120w{number}" for number in range(len(value), size)]
        elif key == "tokenizer.ggml.token_type":
            value += [1] * (size - len(value))
        if value is not None:
            yield key, tuple(map(int, field.types)), value


def metadata(name, shape, vocabulary):
    architecture = shape.get("architecture", "llama")
    yield "general.architecture", (STRING,), architecture
    yield "general.name", (STRING,), f"Random weights in the shape of {name}"
    numbers = {
        "block_count": "layers", "embedding_length": "width", "feed_forward_length": "inner",
        "attention.head_count": "heads", "attention.head_count_kv": "kv_heads", "context_length": "context",
        "vocab_size": "vocab",
    }
    for key, value in numbers.items():
        yield f"{architecture}.{key}", (U32,), shape[value]
    yield f"{architecture}.rope.dimension_count", (U32,), shape["width"] // shape["heads"]
    yield f"{architecture}.rope.freq_base", (FLOAT,), shape.get("rope", 500000.0)
    yield f"{architecture}.attention.layer_norm_rms_epsilon", (FLOAT,), 1e-5
    yield from borrowed(vocabulary, shape["vocab"]) if vocabulary else made_up(shape["vocab"])


def length(kind, dims):
    """Bytes of a tensor."""
    elements, size = BLOCKS[kind]
    return math.prod(dims) // elements * size


def header(name, shape, kind, vocabulary):
    """All that is before the tensors; and of each tensor its place after that, and what it is."""
    pairs, every = list(metadata(name, shape, vocabulary)), list(tensors(shape, kind))
    data = [b"GGUF" + struct.pack("<IQQ", 3, len(every), len(pairs)), *(pair(*entry) for entry in pairs)]
    offset, places = 0, []
    for entry in every:
        name, its, dims, _ = entry
        data.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, its, offset))
        places.append((offset, entry))
        offset += -(-length(its, dims) // 32) * 32
    data = b"".join(data)
    return data + b"\0" * (-len(data) % 32), places


def fill(path, at, entry):
    """Writes a tensor at its place in the file."""
    with open(path, "r+b") as file:
        file.seek(at)
        file.writelines(tensor(*entry))


def write(path, name, kind, vocabulary=None):
    data, places = header(name, SHAPES[name], kind, vocabulary)
    with open(path, "wb") as file:
        file.write(data)
    # The largest first, so that no process is left with one at the end.
    places.sort(key=lambda place: -length(*place[1][1:3]))
    if sum(length(*entry[1:3]) for _, entry in places) < PROCESSES_PAY:
        for offset, entry in places:
            fill(path, len(data) + offset, entry)
        return
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for done in [pool.submit(fill, path, len(data) + offset, entry) for offset, entry in places]:
            done.result()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--kind", choices=["q4_k_m", "q8_0"], default="q4_k_m")
    parser.add_argument("--vocabulary", metavar="MODEL.gguf", help="a model whose tokenizer and chat template to borrow")
    args = parser.parse_args()
    started = time.monotonic()
    # Whole, or not there: it may be killed at any time.
    write(args.file + ".part", args.shape, args.kind, args.vocabulary)
    os.replace(args.file + ".part", args.file)
    print(f"{args.file}: {os.path.getsize(args.file) / 2**30:.2f} GiB in {time.monotonic() - started:.1f} s")
