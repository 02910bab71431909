"""Writes GGUF files: a real BERT or a part of it, and a Llama of random weights with the shipped model's tokenizer."""

import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from synth import llama

ALIGNMENT = 32
FORMS = {bool: (7, "?"), int: (4, "I"), np.int32: (5, "i"), float: (6, "f"), str: (8, "")}
LAYERS = {
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
    "word_embeddings": "token_embd",
    "position_embeddings": "position_embd",
    "token_type_embeddings": "token_types",
    "LayerNorm": "token_embd_norm",
}
HALF = {"token_embd", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"}
"""llama.cpp wants the other tensors in single precision."""


def write_gguf(path, values, tensors):
    """Header values (int, float, bool, str or a list of one of them) and tensors of float32 or float16."""
    infos, blobs, offset = [], [], 0
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor)
        infos.append(
            _text(name)
            + struct.pack(f"<I{data.ndim}Q", data.ndim, *reversed(data.shape))
            + struct.pack("<IQ", int(data.dtype == np.float16), offset)
        )
        blobs.append(data.tobytes() + bytes(-data.nbytes % ALIGNMENT))
        offset += len(blobs[-1])
    pairs = [_text(key) + _typed(value) for key, value in values.items()]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs + infos)
    path.write_bytes(head + bytes(-len(head) % ALIGNMENT) + b"".join(blobs))
    return path


def write_bert(path, folder, *, layers=None, words=None, **changes):
    """The BERT in `folder` (safetensors and WordPiece vocabulary) as a GGUF file; a change of None removes a key.

    With `layers` and `words` only the first layers and the first entries of the vocabulary: a model that knows nothing
    and is loaded in no time.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()[:words]
    special = [word.startswith("[") and word.endswith("]") for word in vocabulary]
    layers = layers or config["num_hidden_layers"]
    values = {
        "general.architecture": "bert",
        "bert.block_count": layers,
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": config["layer_norm_eps"],
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        "tokenizer.ggml.tokens": [
            word if each else word.removeprefix("##") if word.startswith("##") else f"\u2581{word}"
            for word, each in zip(vocabulary, special, strict=True)
        ],
        "tokenizer.ggml.token_type": [np.int32(3 if each else 1) for each in special],
        "tokenizer.ggml.padding_token_id": vocabulary.index("[PAD]"),
        "tokenizer.ggml.unknown_token_id": vocabulary.index("[UNK]"),
        "tokenizer.ggml.bos_token_id": vocabulary.index("[CLS]"),
        "tokenizer.ggml.cls_token_id": vocabulary.index("[CLS]"),
        "tokenizer.ggml.seperator_token_id": vocabulary.index("[SEP]"),
        "tokenizer.ggml.mask_token_id": vocabulary.index("[MASK]"),
    } | changes
    weights = load_file(folder / "model.safetensors")
    names = {f"embeddings.{source}": name for source, name in EMBEDDINGS.items()}
    for n in range(layers):
        names |= {f"encoder.layer.{n}.{source}": f"blk.{n}.{name}" for source, name in LAYERS.items()}
    tensors = {}
    for key, weight in weights.items():
        source, _, part = key.rpartition(".")
        if name := names.get(source):
            half = part == "weight" and name.rpartition(".")[2] in HALF
            tensors[f"{name}.{part}"] = (weight[:words] if name == "token_embd" else weight).astype(
                np.float16 if half else np.float32
            )
    return write_gguf(path, {key: value for key, value in values.items() if value is not None}, tensors)


def write_llama(path, *, width=32, words=2000):
    """One layer of random weights, with the template and the first words of the tokenizer of the shipped model."""
    with llama.find_model(llama.SHIPPED).path.open("rb") as file:
        file.seek(8)
        _, count = llama._unpack(file, "QQ")
        shipped = {}
        for _ in range(count):
            key, (kind,) = llama._text(file), llama._unpack(file, "I")
            shipped[key] = llama._value(file, kind)
    tokenizer = {key: value for key, value in shipped.items() if key.startswith("tokenizer.")}
    tokens = tokenizer["tokenizer.ggml.tokens"][:words]
    known = {*tokens}
    merged = [each for each in tokenizer["tokenizer.ggml.merges"] if each.replace(" ", "", 1) in known]
    values = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 8192,
        "llama.embedding_length": width,
        "llama.feed_forward_length": width,
        "llama.attention.head_count": 1,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        **tokenizer,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [np.int32(kind) for kind in tokenizer["tokenizer.ggml.token_type"][:words]],
        "tokenizer.ggml.merges": merged,
    }
    random = np.random.default_rng(0)
    shapes = {"token_embd": len(tokens)} | {
        f"blk.0.{part}": width
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }
    tensors = {f"{name}.weight": random.normal(scale=0.2, size=(rows, width)) for name, rows in shapes.items()}
    tensors |= {f"{name}.weight": np.ones(width) for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")}
    return write_gguf(path, values, {name: tensor.astype(np.float32) for name, tensor in tensors.items()})


def _text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value):
    if isinstance(value, list):
        kind, _ = FORMS[type(value[0])]
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(map(_plain, value))
    return struct.pack("<I", FORMS[type(value)][0]) + _plain(value)


def _plain(value):
    return _text(value) if isinstance(value, str) else struct.pack(f"<{FORMS[type(value)][1]}", value)
