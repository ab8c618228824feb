"""Writes a tiny model with random weights and a real vocabulary: what it says means nothing, but
llama.cpp treats its memory as it treats that of the large ones.

Usage: tiny_gguf.py KIND VOCABULARY.gguf OUT.gguf [VOCABULARY_SIZE]

KIND is `gemma3` (most layers see a sliding window), `mamba` (a recurrent state), `lfm2` and `jamba` (layers with
a state and layers with attention) or `qwen3moe` (a mixture of experts). The vocabulary and its chat template come from another GGUF file; up to
VOCABULARY_SIZE it is filled with tokens that mean nothing.
"""

import sys

import numpy as np
from gguf import GGUFReader, GGUFWriter, GGMLQuantizationType, TokenType, quantize

DIM, LAYERS, HEADS, KV_HEADS, FF, CONTEXT = 64, 6, 4, 2, 128, 4096
HEAD = DIM // HEADS
WINDOW = 96
EXPERTS, EXPERTS_USED, EXPERT_FF = 8, 2, 256
INNER, STATE, RANK, KERNEL = 2 * DIM, 8, 8, 4
random = np.random.default_rng(7)


def weight(*shape, scale=1.0):
    """A matrix that keeps the length of what it is multiplied with, about."""
    return (random.standard_normal(shape) * scale / np.sqrt(shape[-1])).astype(np.float32)


def ones(*shape):
    return np.ones(shape, dtype=np.float32)


def attention(block, norms):
    tensors = {
        "attn_q.weight": weight(HEADS * HEAD, DIM), "attn_k.weight": weight(KV_HEADS * HEAD, DIM),
        "attn_v.weight": weight(KV_HEADS * HEAD, DIM), "attn_output.weight": weight(DIM, HEADS * HEAD),
        # Sharp attention, so that what is far back counts.
        "attn_q_norm.weight": 2 * ones(HEAD), "attn_k_norm.weight": ones(HEAD),
    } | {f"{norm}.weight": ones(DIM) for norm in norms}
    return {f"blk.{block}.{name}": tensor for name, tensor in tensors.items()}


def feed_forward(block, norms):
    tensors = {
        "ffn_gate.weight": weight(FF, DIM), "ffn_up.weight": weight(FF, DIM),
        "ffn_down.weight": weight(DIM, FF),
    } | {f"{norm}.weight": ones(DIM) for norm in norms}
    return {f"blk.{block}.{name}": tensor for name, tensor in tensors.items()}


def sizes(writer):
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_feed_forward_length(FF)


def gemma3(writer):
    sizes(writer)
    writer.add_sliding_window(WINDOW)
    tensors = {"output_norm.weight": ones(DIM)}
    for block in range(LAYERS):
        tensors |= attention(block, ["attn_norm", "post_attention_norm"])
        tensors |= feed_forward(block, ["ffn_norm", "post_ffw_norm"])
    return tensors


def state_sizes(writer):
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)


def recurrent(block):
    return {
        f"blk.{block}.attn_norm.weight": ones(DIM),
        f"blk.{block}.ssm_in.weight": weight(2 * INNER, DIM),
        f"blk.{block}.ssm_conv1d.weight": weight(INNER, KERNEL),
        f"blk.{block}.ssm_conv1d.bias": 0 * ones(INNER),
        f"blk.{block}.ssm_x.weight": weight(RANK + 2 * STATE, INNER),
        f"blk.{block}.ssm_dt.weight": weight(INNER, RANK),
        # Small steps: the state forgets slowly.
        f"blk.{block}.ssm_dt.bias": -3 * ones(INNER),
        f"blk.{block}.ssm_a": -np.tile(np.arange(1, STATE + 1, dtype=np.float32), (INNER, 1)),
        f"blk.{block}.ssm_d": ones(INNER),
        f"blk.{block}.ssm_out.weight": weight(DIM, INNER),
    }


def mamba(writer):
    writer.add_head_count(0)
    writer.add_feed_forward_length(0)
    state_sizes(writer)
    tensors = {"output_norm.weight": ones(DIM)}
    for block in range(LAYERS):
        tensors |= recurrent(block)
    return tensors


def jamba(writer):
    attends = [block % 3 == 2 for block in range(LAYERS)]
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([KV_HEADS if yes else 0 for yes in attends])
    writer.add_feed_forward_length(FF)
    state_sizes(writer)
    tensors = {"output_norm.weight": ones(DIM)}
    for block, yes in enumerate(attends):
        tensors |= feed_forward(block, ["ffn_norm"])
        if yes:
            own = attention(block, ["attn_norm"])
            tensors |= {name: tensor for name, tensor in own.items() if not name.endswith(("q_norm.weight", "k_norm.weight"))}
            continue
        widths = {"dt": RANK, "b": STATE, "c": STATE}
        tensors |= recurrent(block) | {f"blk.{block}.ssm_{name}_norm.weight": ones(width) for name, width in widths.items()}
    return tensors


def lfm2(writer):
    kernel = 3
    attends = [block % 2 == 1 for block in range(LAYERS)]
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([KV_HEADS if yes else 0 for yes in attends])
    writer.add_feed_forward_length(FF)
    writer.add_shortconv_l_cache(kernel)
    tensors = {"token_embd_norm.weight": ones(DIM)}
    for block, yes in enumerate(attends):
        tensors |= feed_forward(block, ["ffn_norm", "attn_norm"])
        tensors |= attention(block, []) if yes else {
            f"blk.{block}.shortconv.conv.weight": weight(DIM, kernel),
            f"blk.{block}.shortconv.in_proj.weight": weight(3 * DIM, DIM),
            f"blk.{block}.shortconv.out_proj.weight": weight(DIM, DIM),
        }
    return tensors


def qwen3moe(writer):
    sizes(writer)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(EXPERTS_USED)
    writer.add_expert_feed_forward_length(EXPERT_FF)
    tensors = {"output_norm.weight": ones(DIM)}
    for block in range(LAYERS):
        tensors |= attention(block, ["attn_norm", "ffn_norm"]) | {
            f"blk.{block}.ffn_gate_inp.weight": weight(EXPERTS, DIM),
            f"blk.{block}.ffn_gate_exps.weight": weight(EXPERTS, EXPERT_FF, DIM),
            f"blk.{block}.ffn_up_exps.weight": weight(EXPERTS, EXPERT_FF, DIM),
            f"blk.{block}.ffn_down_exps.weight": weight(EXPERTS, DIM, EXPERT_FF),
        }
    return tensors


def vocabulary(writer, source, size):
    """Copies a tokenizer. Returns its size."""
    fields = GGUFReader(source).fields
    value = lambda name: fields[f"tokenizer.{name}"].contents()
    tokens, types = value("ggml.tokens"), value("ggml.token_type")
    for number in range(len(tokens), size):
        tokens.append(f"<unused{number}>")
        types.append(int(TokenType.UNUSED))
    writer.add_tokenizer_model(value("ggml.model"))
    writer.add_tokenizer_pre(value("ggml.pre"))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(value("ggml.merges"))
    writer.add_bos_token_id(value("ggml.bos_token_id"))
    writer.add_eos_token_id(value("ggml.eos_token_id"))
    writer.add_chat_template(value("chat_template"))
    return len(tokens)


def main(kind, source, out, size=0):
    writer = GGUFWriter(out, kind)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIM)
    writer.add_block_count(LAYERS)
    writer.add_layer_norm_rms_eps(1e-6)
    kinds = {"gemma3": gemma3, "mamba": mamba, "lfm2": lfm2, "jamba": jamba, "qwen3moe": qwen3moe}
    tensors = kinds[kind](writer)
    tokens = vocabulary(writer, source, int(size))
    # Likely tokens are clearly ahead, and are not those that came before.
    tensors |= {"token_embd.weight": weight(tokens, DIM, scale=8), "output.weight": weight(tokens, DIM, scale=4)}
    for name, tensor in tensors.items():
        if tensor.shape[0] == tokens:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
