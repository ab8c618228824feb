"""Writes a GGUF file of the shape of Llama 3.1 8B with random weights: as large and as slow as the
real one, and nothing to fetch. make_model.py FILE [--kind q4_k_m|q8_0] [--tiny]"""

import argparse
import os
import struct

F32, Q8_0, Q4_K, Q6_K = 0, 8, 12, 14
U32, FLOAT, STRING, ARRAY = 4, 6, 8, 9
INT32 = 5
# Elements of a block, and its bytes.
BLOCKS = {F32: (1, 4), Q8_0: (32, 34), Q4_K: (256, 144), Q6_K: (256, 210)}
EIGHT_B = {"layers": 32, "width": 4096, "inner": 14336, "heads": 32, "kv_heads": 8, "vocab": 128256, "context": 131072}
TINY = {"layers": 3, "width": 512, "inner": 1024, "heads": 8, "kv_heads": 2, "vocab": 2048, "context": 4096}


def half(number):
    return struct.pack("<e", number)


def block(kind):
    """One block of random weights, small enough that activations stay in range."""
    if kind == Q8_0:
        return half(0.0003) + os.urandom(32)
    if kind == Q4_K:
        return half(0.0001) + half(0.0005) + bytes(b & 0x3F for b in os.urandom(12)) + os.urandom(128)
    if kind == Q6_K:
        scales = bytes(b % 9 for b in os.urandom(16))
        return os.urandom(192) + scales + half(0.0002)
    return struct.pack("<f", 1.0)


def data(kind, count):
    elements, size = BLOCKS[kind]
    assert count % elements == 0, (kind, count)
    blocks = count // elements
    pattern = b"".join(block(kind) for _ in range(min(blocks, 4099)))
    while blocks > 0:
        take = min(blocks, len(pattern) // size)
        yield pattern[: take * size]
        blocks -= take


def tensors(shape, kind):
    """Names, dimensions and kinds; `q4_k_m` mixes as llama.cpp's quantiser does."""
    width, inner = shape["width"], shape["inner"]
    kv = width // shape["heads"] * shape["kv_heads"]
    plain, fine = (Q8_0, Q8_0) if kind == "q8_0" else (Q4_K, Q6_K)
    yield "token_embd.weight", (width, shape["vocab"]), plain
    for layer in range(shape["layers"]):
        # An eighth at each end, and every third between, in the finer kind.
        eighth = shape["layers"] // 8
        better = layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2
        for name, dims, its in [
            ("attn_norm", (width,), F32), ("ffn_norm", (width,), F32), ("attn_q", (width, width), plain),
            ("attn_k", (width, kv), plain), ("attn_v", (width, kv), fine if better else plain),
            ("attn_output", (width, width), plain), ("ffn_gate", (width, inner), plain),
            ("ffn_up", (width, inner), plain), ("ffn_down", (inner, width), fine if better else plain),
        ]:
            yield f"blk.{layer}.{name}.weight", dims, its
    yield "output_norm.weight", (width,), F32
    yield "output.weight", (width, shape["vocab"]), fine


def text(value):
    value = value.encode()
    return struct.pack("<Q", len(value)) + value


def metadata(shape):
    numbers = {
        "block_count": "layers", "embedding_length": "width", "feed_forward_length": "inner",
        "attention.head_count": "heads", "attention.head_count_kv": "kv_heads", "context_length": "context",
        "vocab_size": "vocab",
    }
    pairs = [("general.architecture", STRING, text("llama")), ("tokenizer.ggml.model", STRING, text("llama"))]
    pairs += [(f"llama.{key}", U32, struct.pack("<I", shape[name])) for key, name in numbers.items()]
    pairs += [("llama.rope.dimension_count", U32, struct.pack("<I", shape["width"] // shape["heads"]))]
    pairs += [("llama.attention.layer_norm_rms_epsilon", FLOAT, struct.pack("<f", 1e-5))]
    pairs += [("llama.rope.freq_base", FLOAT, struct.pack("<f", 500000.0))]
    # Unknown, begin, end, the bytes, and words.
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    names += [f"\u2581w{number}" for number in range(shape["vocab"] - len(names))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (shape["vocab"] - 259)

    def array(kind, items):
        return struct.pack("<IQ", kind, len(items)) + b"".join(items)

    pairs += [("tokenizer.ggml.tokens", ARRAY, array(STRING, [text(name) for name in names]))]
    scores = [struct.pack("<f", -float(index)) for index in range(len(names))]
    pairs += [("tokenizer.ggml.scores", ARRAY, array(FLOAT, scores))]
    pairs += [("tokenizer.ggml.token_type", ARRAY, array(INT32, [struct.pack("<i", kind) for kind in kinds]))]
    for key, token in {"bos": 1, "eos": 2, "unknown": 0}.items():
        pairs += [(f"tokenizer.ggml.{key}_token_id", U32, struct.pack("<I", token))]
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    pairs += [("tokenizer.chat_template", STRING, text(template))]
    return pairs


def write(path, kind, shape):
    pairs, all_tensors = metadata(shape), list(tensors(shape, kind))
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(all_tensors), len(pairs)))
        for key, value_kind, value in pairs:
            file.write(text(key) + struct.pack("<I", value_kind) + value)
        offset = 0
        sizes = []
        for name, dims, its in all_tensors:
            count = 1
            for dim in dims:
                count *= dim
            elements, size = BLOCKS[its]
            file.write(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, its, offset))
            sizes.append((its, count))
            offset += -(-count // elements * size // 32) * 32
        for its, count in sizes:
            file.write(b"\0" * (-file.tell() % 32))
            for piece in data(its, count):
                file.write(piece)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--kind", choices=["q4_k_m", "q8_0"], default="q4_k_m")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    write(args.file, args.kind, TINY if args.tiny else EIGHT_B)
    print(f"{args.file}: {os.path.getsize(args.file) / 2**30:.2f} GiB")
