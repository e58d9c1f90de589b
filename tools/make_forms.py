#!/usr/bin/env python3
"""Write one tiny model in each form in which Qwen-Image is passed on, each with its own tool: tests/golden/forms/.

    make_forms.py           the model in the published layout, and every form of it

    comfyui/diffusion_models/   prefix model.diffusion_model.: bf16, fp8_e4m3fn, fp8_scaled (scale_weight)
    comfyui/text_encoders/      fp8_scaled with weight_scale and the marks of newer files
    comfyui/vae/                the names of Wan's code
    gguf/                       transformer with the types that the gguf package can make, text encoder with its tokenizer
    mlx4/ mlx8/                 mlx.core.quantize in groups of 64 under mflux's names, VAE with channels last

and beside them mlx_dequantised.safetensors: two matrices as mlx.core.dequantize gives them from float32 scales. Needs the
packages of tools/requirements.txt and mlx (on Linux mlx[cpu]). The same versions give the same bytes.
"""

import json
import logging
import re
import sys
import warnings
from pathlib import Path

import diffusers
import gguf
import mlx.core as mx
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "golden"))
import make_golden  # noqa: E402

FORMS = ROOT / "tests" / "golden" / "forms"
F8 = torch.float8_e4m3fn

# Rows of 64 make one group of MLX and two blocks of GGUF.
SPEC = {
    "transformer": {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 64, "axes_dims_rope": [16, 24, 24],
                    "joint_attention_dim": 64},
    "text": {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 128, "mrope_section": [2, 3, 3]},
    "vae": {"base_dim": 6, "dim_mult": [1, 1, 1, 2], "num_res_blocks": 1},
    "form": "nested", "old_names": True, "dtype": "bf16", "words": make_golden.WORDS,
    "transformer_factors": make_golden.SLOW_TIME,
}


def read(component):
    """The tensors of one component by name, without the parts that a picture from text does not need."""
    (path,) = (FORMS / component).glob("*.safetensors")
    return {name: value for name, value in sorted(load_file(path).items())
            if not name.startswith(("lm_head.", "visual.", "encoder.", "quant_conv."))}


def is_matrix(name, value):
    return value.ndim == 2 and name.endswith(".weight")


def save(path, tensors, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    path.chmod(0o644)


# ---- ComfyUI ---------------------------------------------------------------------------------------------------------

def scaled(value):
    """8-bit floats and the scale that they are to be multiplied by."""
    scale = value.float().abs().max() / torch.finfo(F8).max
    return (value.float() / scale).to(F8), scale


def wan_name(name):
    """The other way round than src/model/checkpoint_names.c: to the names of Wan's code."""
    if name.startswith("decoder.up_blocks."):
        level, kind, index, rest = re.match(r"decoder\.up_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name).groups()
        per_level = SPEC["vae"]["num_res_blocks"] + 2
        layer = int(level) * per_level + (int(index) if kind == "resnets" else per_level - 1)
        name = f"decoder.upsamples.{layer}.{rest}"
    for ours, theirs in [("post_quant_conv.", "conv2."), ("decoder.conv_in.", "decoder.conv1."),
                         ("mid_block.resnets.0.", "middle.0."), ("mid_block.attentions.0.", "middle.1."),
                         ("mid_block.resnets.1.", "middle.2."), ("norm_out.", "head.0."), ("conv_out.", "head.2.")]:
        name = name.replace(ours, theirs)
    if ".middle.1." not in name:
        for ours, theirs in [(".norm1.", ".residual.0."), (".norm2.", ".residual.3."), (".conv_shortcut.", ".shortcut.")]:
            name = name.replace(ours, theirs)
        name = re.sub(r"((?:upsamples|middle)\.\d+)\.conv1\.", r"\1.residual.2.", name)
        name = re.sub(r"((?:upsamples|middle)\.\d+)\.conv2\.", r"\1.residual.6.", name)
    return name


def write_comfyui():
    folder, prefix = FORMS / "comfyui", "model.diffusion_model."
    transformer = {prefix + name: value for name, value in read("transformer").items()}
    save(folder / "diffusion_models" / "forms_bf16.safetensors", transformer)
    save(folder / "diffusion_models" / "forms_fp8_e4m3fn.safetensors",
         {name: value.to(F8) for name, value in transformer.items()})

    tensors = {prefix + "scaled_fp8": torch.zeros(2, dtype=F8)}
    for name, value in transformer.items():
        if is_matrix(name, value) and "transformer_blocks." in name:
            tensors[name], tensors[name.replace(".weight", ".scale_weight")] = scaled(value)
            tensors[name.replace(".weight", ".scale_input")] = torch.ones(())
        else:
            tensors[name] = value
    save(folder / "diffusion_models" / "forms_fp8_scaled.safetensors", tensors)

    tensors = {}
    mark = torch.frombuffer(bytearray(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    for name, value in read("text_encoder").items():
        if is_matrix(name, value) and "_proj." in name:
            tensors[name], tensors[name + "_scale"] = scaled(value)
            tensors[name.replace(".weight", ".comfy_quant")] = mark.clone()
        else:
            tensors[name] = value
    save(folder / "text_encoders" / "forms_text_fp8_scaled.safetensors", tensors, {"format": "pt"})
    save(folder / "vae" / "forms_vae.safetensors", {wan_name(name): value for name, value in read("vae").items()})


# ---- GGUF ------------------------------------------------------------------------------------------------------------

LLAMA_NAMES = {  # as llama.cpp's converter names them
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers": "blk"}

MIXED = [("attn.to_", "Q4_0"), ("attn.add_", "Q4_1"), ("_mlp.net.0", "Q5_0"), ("_mlp.net.2", "Q5_1"), ("_mod.", "Q4_0"),
         ("transformer_blocks.", "Q8_0"), ("", "F16")]


def add_tensor(writer, name, value, kind):
    kind = gguf.GGMLQuantizationType[kind if value.ndim > 1 else "F32"]
    value = value.float().numpy()
    if kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, value)
    elif kind == gguf.GGMLQuantizationType.F16:
        writer.add_tensor(name, value.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf():
    folder = FORMS / "gguf"
    folder.mkdir()
    for label, kinds in [("q8_0", [("transformer_blocks.", "Q8_0"), ("", "BF16")]), ("mixed", MIXED)]:
        writer = gguf.GGUFWriter(folder / f"forms_{label}.gguf", "qwen_image")
        for name, value in read("transformer").items():
            add_tensor(writer, name, value, next(kind for part, kind in kinds if part in name))
        finish(writer)

    text, path = SPEC["text"], folder / "forms_text_bf16.gguf"
    writer = gguf.GGUFWriter(path, "qwen2vl")
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    add_tokenizer(writer)
    for name, value in read("text_encoder").items():
        for ours, theirs in LLAMA_NAMES.items():
            name = name.replace(ours, theirs)
        add_tensor(writer, name, value, "BF16")
    finish(writer)


def add_tokenizer(writer):
    folder = FORMS / "tokenizer"
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
    special = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["added_tokens_decoder"]
    rows = len(read("text_encoder")["model.embed_tokens.weight"])
    tokens, types = [f"[PAD{i}]" for i in range(rows)], [int(gguf.TokenType.UNUSED)] * rows
    for token, i in ids.items():
        tokens[i], types[i] = token, int(gguf.TokenType.NORMAL)
    for token, i in added.items():
        is_special = special[str(i)]["special"]
        tokens[i], types[i] = token, int(gguf.TokenType.CONTROL if is_special else gguf.TokenType.USER_DEFINED)
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([line for line in merges if line and not line.startswith("#version")])


# ---- MLX -------------------------------------------------------------------------------------------------------------

MFLUX_NAMES = {  # qwen_weight_mapping.py
    "transformer": [("attn.to_out.0.", "attn.attn_to_out.0."), ("_mod.1.", "_mod_linear."), ("_mlp.net.0.proj.", "_ff.mlp_in."),
                    ("_mlp.net.2.", "_ff.mlp_out.")],
    "text_encoder": [("model.", "encoder.")],
    "vae": [("resample.1.", "resample_conv."), ("conv_shortcut.", "skip_conv."), (".gamma", ".weight"),
            ("up_blocks.", "up_block")],
}


def to_mlx(value):
    return mx.array(value.float().numpy()).astype(mx.bfloat16)


def mflux_tensors(component, bits):
    tensors = {}
    for name, value in read(component).items():
        theirs = name
        for ours, other in MFLUX_NAMES[component]:
            theirs = theirs.replace(ours, other)
        if component == "vae":  # mflux wraps 3D convolutions in a module of their own, and keeps norms flat
            if re.search(r"(conv_in|conv_out|conv1|conv2|skip_conv|time_conv|post_quant_conv)\.(weight|bias)$", theirs):
                theirs = re.sub(r"\.(weight|bias)$", r".conv3d.\1", theirs)
            if value.ndim >= 4 and name.endswith(".weight"):
                value = value.permute(0, *range(2, value.ndim), 1)
            elif name.endswith(".gamma"):
                value = value.reshape(-1)
        if is_matrix(name, value) and (component == "transformer" or bits == 8):
            parts = mx.quantize(to_mlx(value), group_size=64, bits=bits)
            tensors.update(zip([theirs, theirs.replace(".weight", ".scales"), theirs.replace(".weight", ".biases")], parts))
        else:
            tensors[theirs] = to_mlx(value.contiguous())
    return tensors


def write_mlx():
    dequantised = {}
    for bits, components in [(4, ["transformer"]), (8, ["transformer", "text_encoder", "vae"])]:
        metadata = {"quantization_level": str(bits), "mflux_version": "0.11.0"}
        for component in components:
            folder = FORMS / f"mlx{bits}" / component
            folder.mkdir(parents=True)
            tensors = mflux_tensors(component, bits)
            names = sorted(tensors)
            half = len(names) // 2 if component == "transformer" else len(names)
            shards = [shard for shard in (names[:half], names[half:]) if shard]
            for i, shard in enumerate(shards):
                mx.save_safetensors(str(folder / f"{i}.safetensors"), {name: tensors[name] for name in shard}, metadata)
            # Earlier versions of mflux wrote no index.
            if bits == 8:
                weight_map = {name: f"{i}.safetensors" for i, shard in enumerate(shards) for name in shard}
                make_golden.write_json(folder / "model.safetensors.index.json",
                                       {"metadata": metadata, "weight_map": weight_map})
            if component == "transformer":
                base = "transformer_blocks.0.attn.to_q."
                parts = [tensors[base + part] for part in ("weight", "scales", "biases")]
                value = mx.dequantize(parts[0], parts[1].astype(mx.float32), parts[2].astype(mx.float32), 64, bits)
                dequantised[f"{base}weight.{bits}"] = torch.from_numpy(np.array(value.astype(mx.float32)))
    save(FORMS / "mlx_dequantised.safetensors", dequantised)
    # As mflux does; from version 5 on this is a tokenizer.json alone.
    transformers.Qwen2Tokenizer.from_pretrained(FORMS / "tokenizer").save_pretrained(FORMS / "mlx8" / "tokenizer")


def main():
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", FutureWarning)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    make_golden.build_model("forms", SPEC)
    write_comfyui()
    write_gguf()
    write_mlx()


if __name__ == "__main__":
    main()
