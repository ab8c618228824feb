"""Converts all-MiniLM-L6-v2 (safetensors, as sentence-transformers ships it) to a GGUF file.

Usage: minilm_to_gguf.py MODEL_DIR OUT.gguf

Architecture `bert`: mean pooling, non-causal attention, WordPiece vocabulary. llama.cpp wants
word-initial pieces to begin with U+2581 and continuations without their `##`.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, PoolingType, TokenType

LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
SPECIAL = {"[PAD]": "pad", "[UNK]": "unk", "[CLS]": "bos", "[SEP]": "sep", "[MASK]": "mask"}


def tensors(path):
    """Name and array of every float tensor of a safetensors file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            array = np.frombuffer(data[8 + size + begin : 8 + size + end], dtype="<f4")
            yield name, array.reshape(entry["shape"])


def gguf_name(name):
    """llama.cpp's name for a tensor, or None for one that it does not use."""
    if name in EMBEDDINGS:
        return EMBEDDINGS[name]
    if not name.startswith("encoder.layer."):
        return None
    _, _, index, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{index}.{LAYER[module]}.{kind}"


def add_vocabulary(writer, tokenizer):
    vocab = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    texts, types = [], []
    for text, token in vocab:
        if text in SPECIAL:
            types.append(TokenType.UNKNOWN if text == "[UNK]" else TokenType.CONTROL)
            getattr(writer, f"add_{SPECIAL[text]}_token_id")(token)
        else:
            types.append(TokenType.NORMAL)
            text = text[2:] if text.startswith("##") else "\u2581" + text
        texts.append(text)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_type_count(2)


def main(source, out):
    config = json.loads((source / "config.json").read_text())
    writer = GGUFWriter(str(out), "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    add_vocabulary(writer, json.loads((source / "tokenizer.json").read_text()))
    for name, array in tensors(source / "model.safetensors"):
        if target := gguf_name(name):
            matrix = array.ndim == 2 and not target.startswith(("position_embd", "token_types"))
            writer.add_tensor(target, array.astype(np.float16) if matrix else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
