#!/usr/bin/env python3
"""Record what the Python package `gguf` decodes, and small GGUF files that it writes.

    make_gguf_vectors.py [--blocks N] [OUT_DIR]

writes into OUT_DIR (tests/golden/gguf):

    blocks.safetensors  for each quantised type TYPE.blocks, U8 [n, bytes], and TYPE.values, F32 [n, elements], which
                        gguf.quants made of them: rows that it quantised where it can, blocks of random bytes, and
                        blocks whose scales are zero, subnormal, huge, infinite or no number
    tokenizer.gguf      the tokenizer of tests/golden/tiny, as llama.cpp's converter stores one
    tensors.gguf        metadata of every type, and a tensor of every type

--blocks N appends N more blocks of random bytes to each type; with INK_TEST_GGUF_BLOCKS=FILE test_gguf_blocks reads
such a file instead of the recorded one.

Needs gguf, numpy and safetensors (requirements.txt beside this file). Building, running and testing Inkstone does not.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "golden" / "tiny"

# The places of the f16 scales in a block.
HALVES = {
    "Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "IQ4_NL": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,),
}
# zero, subnormals, the least normal, 1, the largest, infinity, NaN
NASTY_HALVES = (0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0xFBFF, 0x7C00, 0xFC00, 0x7E01, 0xFD55)


def rows_to_quantise(rng, n):
    """Rows of n numbers; f16 scales overflow in the last."""
    normal = rng.standard_normal(n)
    outlier = normal.copy()
    outlier[n // 2] = 1000
    return [
        normal, normal * 1e-7, normal * 2e4, outlier, np.zeros(n), np.full(n, 0.7), np.full(n, -3.0),
        np.linspace(-1, 1, n), np.where(np.arange(n) % 2, 1.0, -1.0), normal * 1e30,
    ]


def blocks_of(name, rng, n_more):
    qtype = gguf.GGMLQuantizationType[name]
    n_elements, n_bytes = gguf.GGML_QUANT_SIZES[qtype]
    blocks = []
    with np.errstate(all="ignore"):
        for row in rows_to_quantise(rng, n_elements):
            try:
                blocks.append(quantize(row.astype(np.float32).reshape(1, -1), qtype).reshape(n_bytes))
            except NotImplementedError:
                break
    for _ in range(10):  # the scales of a real file
        block = rng.integers(0, 256, n_bytes, dtype=np.uint8)
        for place in HALVES[name]:
            block[place : place + 2] = rng.normal(0, 0.02, 1).astype(np.float16).view(np.uint8)
        blocks.append(block)
    for half in NASTY_HALVES:
        # Two infinities may cancel to NaN everywhere, so one alone as well.
        for places in dict.fromkeys((HALVES[name], HALVES[name][:1])):
            block = rng.integers(0, 256, n_bytes, dtype=np.uint8)
            for place in HALVES[name]:
                block[place : place + 2] = np.array([half if place in places else 0x2400], np.uint16).view(np.uint8)
            blocks.append(block)
    blocks += [np.zeros(n_bytes, np.uint8), np.full(n_bytes, 255, np.uint8)]
    blocks += list(rng.integers(0, 256, (4 + n_more, n_bytes), dtype=np.uint8))
    return np.stack(blocks)


def write_blocks(path, n_more):
    rng = np.random.default_rng(20250804)
    tensors = {}
    for name in HALVES:
        blocks = blocks_of(name, rng, n_more)
        with np.errstate(all="ignore"):
            values = dequantize(blocks, gguf.GGMLQuantizationType[name])
        tensors[f"{name}.blocks"] = blocks
        tensors[f"{name}.values"] = values
    save_file(tensors, path, {"gguf": "0.19.0"})


def write_tokenizer(path):
    """Tokens by id; ids that nothing uses become [PADn], as the converter makes of a padded vocabulary."""
    vocab = json.loads((TINY / "tokenizer" / "vocab.json").read_text())
    added = json.loads((TINY / "tokenizer" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    tokens = {i: (token, gguf.TokenType.NORMAL) for token, i in vocab.items()}
    for i, fields in added.items():
        kind = gguf.TokenType.CONTROL if fields["special"] else gguf.TokenType.USER_DEFINED
        tokens[int(i)] = (fields["content"], kind)
    n = max(tokens) + 6
    listed = [tokens.get(i, (f"[PAD{i}]", gguf.TokenType.UNUSED)) for i in range(n)]
    lines = (TINY / "tokenizer" / "merges.txt").read_text().split("\n")

    writer = gguf.GGUFWriter(path, "qwen2vl")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([token for token, _ in listed])
    writer.add_token_types([kind for _, kind in listed])
    writer.add_token_merges([line for line in lines if line and not line.startswith("#version")])
    write(writer)


def write_tensors(path):
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "qwen_image")
    for bits in (8, 16, 32, 64):
        getattr(writer, f"add_uint{bits}")(f"test.u{bits}", 2**bits - 1)
        getattr(writer, f"add_int{bits}")(f"test.i{bits}", -(2 ** (bits - 1)))
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.true", True)
    writer.add_bool("test.false", False)
    writer.add_string("test.text", "ink \u58a8")
    writer.add_key_value("test.empty", "", gguf.GGUFValueType.STRING)
    writer.add_array("test.ints", [16, 24, 24])
    writer.add_array("test.floats", [0.5, -2.0])
    writer.add_array("test.texts", ["a", "", "\u58a8"])
    writer.add_array("test.bools", [True, False])
    writer.add_array("test.nested", [[1, 2], [3]])

    writer.add_tensor("scalar_row", np.array([1.5], np.float32))
    writer.add_tensor("F32", rng.standard_normal((2, 3, 4)).astype(np.float32))
    writer.add_tensor("F16", rng.standard_normal((3, 5)).astype(np.float16))
    bf16 = rng.integers(0, 256, (3, 10), dtype=np.uint8)
    writer.add_tensor("BF16", bf16, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.add_tensor("I32", np.arange(7, dtype=np.int32))
    for name in list(HALVES) + ["IQ2_XXS"]:
        qtype = gguf.GGMLQuantizationType[name]
        raw = rng.integers(0, 256, (2, gguf.GGML_QUANT_SIZES[qtype][1]), dtype=np.uint8)
        writer.add_tensor(name, raw, raw_dtype=qtype)
    write(writer)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=0, metavar="N", help="more blocks of random bytes of each type")
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "tests" / "golden" / "gguf")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_blocks(arguments.out / "blocks.safetensors", arguments.blocks)
    write_tokenizer(arguments.out / "tokenizer.gguf")
    write_tensors(arguments.out / "tensors.gguf")


if __name__ == "__main__":
    main()
