"""A reranker out of MiniLM's encoder: BERT's pooler and a classifier with one output on top, weights at
random but always the same. It ranks nonsense; what is tested is that the numbers are right.

ranker.py MINILM.gguf OUT.gguf
"""

import sys

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, PoolingType


def head(width):
    rng = np.random.default_rng(7)
    return {
        "cls.weight": rng.normal(0, 0.05, (width, width)).astype(np.float32),
        "cls.bias": rng.normal(0, 0.1, width).astype(np.float32),
        "cls.output.weight": rng.normal(0, 0.3, (1, width)).astype(np.float32),
        "cls.output.bias": np.array([0.2], dtype=np.float32),
    }


def main(source, out):
    reader = GGUFReader(source)
    writer = GGUFWriter(out, "bert")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "bert.pooling_type"):
            continue
        kind = field.types[0]
        part = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, part)
    writer.add_pooling_type(PoolingType.RANK)
    writer.add_classifier_output_labels(["relevance"])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, array in head(384).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
