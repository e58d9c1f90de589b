#!/usr/bin/env python3
"""Re-create the tiny random checkpoints and the recorded references of this folder.

    make_golden.py [NAME...]        all, or only the named models; "rng" stands for rng.safetensors
    make_golden.py --vocabulary DIR tokenizer_cases.json, from the tokenizer/ folder of a Qwen-Image checkpoint
    make_golden.py --check          load every reference back and print a table

Needs the packages of tools/requirements.txt. Weights come from a generator seeded by model and tensor name, so
the same versions give the same bytes. README.md says what each model is for.
"""

import argparse
import json
import logging
import re
import shutil
import sys
import unicodedata
import warnings
import zlib
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tools"))
import make_reference  # noqa: E402
import qwen_tokenizer  # noqa: E402
import tokenizer_texts  # noqa: E402

SCHEDULER = {  # as published
    "base_image_seq_len": 256, "base_shift": 0.5, "invert_sigmas": False, "max_image_seq_len": 8192, "max_shift": 0.9,
    "num_train_timesteps": 1000, "shift": 1.0, "shift_terminal": 0.02, "stochastic_sampling": False,
    "time_shift_type": "exponential", "use_beta_sigmas": False, "use_dynamic_shifting": True,
    "use_exponential_sigmas": False, "use_karras_sigmas": False}

WORDS = ["a", "red", "blue", "green", "circle", "square", "on", "with", "cat", "house", "background", "photo",
         "不", "猫", "一只", "🐱"]

# More tokens than the tokenizer keeps, and far more than the 512 rows that reach the transformer.
LONG_PROMPT = " ".join(f"item {i}: a {'blue house' if i % 3 else 'red circle'} on {i}," for i in range(120))

# Factors on the init of the tensors whose names match. The common ones keep latents and pictures in range.
COMMON = [(r"^proj_out\.", 0.3), (r"timestep_embedder\.linear_2\.", 0.5), (r"^decoder\.conv_out\.", 0.4)]
SMALL_TRANSFORMER = [(r"^(img|txt)_in\.", 1e-3), (r"\.(to_out\.0|to_add_out|net\.2)\.", 1e-3),
                     (r"\.(to_[qk]|add_[qk]_proj)\.", 1e-3)]
# In bf16 the timestep itself is rounded, which turns the fast time frequencies by radians. Trained models hardly use
# them; without these factors that one rounding would hide every other bf16 error.
SLOW_TIME = [(r"timestep_embedder\.linear_1\.weight", 1 / (1 + 100 * 10000.0 ** (-(np.arange(256) % 128) / 128)))]
SMALL_TEXT = [(r"embed_tokens", 1e-3), (r"\.(o_proj|down_proj)\.", 1e-3), (r"language_model\.norm\.", 1e-3)]

# "text" takes the fields of text_config plus mrope_section and rope_theta; form and old_names are explained at
# build_text_encoder, merges at build_tokenizer. A request with bf16_error also records how far diffusers' own bf16
# run is from the float32 one; its noise is bf16, so that both runs start from the same latents.
MODELS = {
    "tiny": {
        "transformer": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16,
                        "axes_dims_rope": [4, 6, 6], "joint_attention_dim": 32},
        "text": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                 "intermediate_size": 48, "mrope_section": [1, 1, 2]},
        "vae": {"base_dim": 8, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1},
        "form": "nested", "old_names": False, "words": WORDS,
        "tokenizer_cases": True,
        "references": {
            "plain": {"prompt": "a red circle on a blue background", "steps": 4, "width": 64, "height": 64,
                      "seed": 42},
            "cfg": {"prompt": "一只猫坐在沙发上，阳光明媚。", "negative": " ", "cfg": 4, "steps": 3, "width": 48,
                    "height": 80, "seed": 2**32 + 7},
            "empty": {"prompt": "", "negative": "猫 photo", "cfg": 2.5, "steps": 2, "width": 16, "height": 112,
                      "seed": 0, "noise_dtype": "bf16"},
            "long": {"prompt": LONG_PROMPT, "negative": "\n🐱🚀 blurry", "cfg": 1.5, "steps": 2, "width": 112,
                     "height": 80, "seed": 123456789012345, "with_stages": False},
        },
    },
    "published": {
        "transformer": {"num_layers": 3, "num_attention_heads": 3, "attention_head_dim": 24,
                        "axes_dims_rope": [8, 8, 8], "joint_attention_dim": 56},
        "text": {"hidden_size": 56, "num_hidden_layers": 3, "num_attention_heads": 7, "num_key_value_heads": 1,
                 "intermediate_size": 88, "mrope_section": [2, 1, 1], "vocab_size": 640},
        "vae": {"base_dim": 4, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2},
        "form": "both", "old_names": True, "dtype": "bf16", "shard_size": "150KB",
        "words": WORDS + ["cinematic", "sign"],
        "transformer_factors": SLOW_TIME,
        "references": {
            "plain": {"prompt": "A cat holding a sign that says \"hello {world}\", 4K", "steps": 4, "width": 80,
                      "height": 48, "seed": 1},
            "added": {"prompt": "red<|im_end|>\n<|im_start|>user\ncat <tool_call>x</tool_call><|vision_pad|>",
                      "negative": "<|endoftext|>", "cfg": 3, "steps": 3, "width": 112, "height": 16,
                      "seed": 2**64 - 1},
            "bf16": {"prompt": "A cinematic photo of a red cat, Ultra HD", "negative": "blurry", "cfg": 4, "steps": 6,
                     "width": 64, "height": 48, "seed": 42, "noise_dtype": "bf16", "bf16_error": True},
            "bf16-long": {"prompt": LONG_PROMPT, "steps": 4, "width": 48, "height": 32, "seed": 7,
                          "noise_dtype": "bf16", "bf16_error": True, "with_stages": False},
        },
    },
    "head128": {
        "transformer": {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 128,
                        "axes_dims_rope": [16, 56, 56], "joint_attention_dim": 256},
        "text": {"hidden_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
                 "intermediate_size": 120, "mrope_section": [16, 24, 24]},
        "vae": {"base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
        "form": "nested", "old_names": True, "dtype": "bf16", "words": WORDS,
        "transformer_factors": SLOW_TIME,
        "references": {
            "plain": {"prompt": "green house", "steps": 3, "width": 112, "height": 80, "seed": 3},
            "bf16": {"prompt": "photo of a house with a green square", "negative": "", "cfg": 5, "steps": 5,
                     "width": 80, "height": 80, "seed": 99, "noise_dtype": "bf16", "bf16_error": True},
        },
    },
    "small-values": {
        "transformer": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12,
                        "axes_dims_rope": [4, 4, 4], "joint_attention_dim": 24},
        "text": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3,
                 "intermediate_size": 40, "mrope_section": [1, 2, 1], "rms_norm_eps": 1e-5},
        "vae": {"base_dim": 8, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1,
                "latents_mean": [0.1 * i - 0.8 for i in range(16)], "latents_std": [1 + 0.15 * i for i in range(16)]},
        "scheduler": {"shift_terminal": None, "time_shift_type": "linear", "base_shift": 0.7, "max_shift": 1.3,
                      "max_image_seq_len": 4096},
        "transformer_factors": SMALL_TRANSFORMER, "text_factors": SMALL_TEXT,
        "form": "nested", "old_names": True, "words": WORDS,
        "references": {
            "one-step": {"prompt": "Cafe\u0301 a\u0307\u0323 \u1112\u1161\u11ab x\u0301", "steps": 1, "width": 48,
                         "height": 48, "seed": 5},
            "cfg": {"prompt": "👩‍👩‍👧 🐱", "negative": "e\u0301", "cfg": 7.25, "steps": 5, "width": 32, "height": 80,
                    "seed": 2**40 + 1},
        },
    },
    "static-shift": {
        "transformer": {"num_layers": 5, "num_attention_heads": 2, "attention_head_dim": 20,
                        "axes_dims_rope": [4, 8, 8], "joint_attention_dim": 48},
        "text": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
                 "intermediate_size": 68, "mrope_section": [1, 1, 2], "rope_theta": 1e4},
        "vae": {"base_dim": 6, "dim_mult": [2, 1, 3, 2], "num_res_blocks": 3,
                "temperal_downsample": [True, False, True]},
        "scheduler": {"use_dynamic_shifting": False, "shift": 3.0, "shift_terminal": 0.1},
        "form": "flat", "old_names": True, "dtype": "bf16", "words": WORDS, "merges": 60,
        "transformer_factors": SLOW_TIME,
        "tokenizer_cases": True,
        "references": {
            "plain": {"prompt": "\n\n  cat's  12 不 ", "steps": 8, "width": 64, "height": 16, "seed": 2**32},
            "cfg": {"prompt": "a blue square", "negative": "不", "cfg": 1.01, "steps": 7, "width": 80, "height": 48,
                    "seed": 2**32 - 1, "noise_dtype": "bf16"},
            "bf16": {"prompt": "a cat on a red house", "steps": 4, "width": 48, "height": 80, "seed": 11,
                     "noise_dtype": "bf16", "bf16_error": True},
        },
    },
}


def init_tensor(model_name, name, shape, factors):
    """Random values for one weight: norms around 1, biases small, matrices and kernels by fan-in."""
    rng = np.random.default_rng([zlib.crc32(model_name.encode()), zlib.crc32(name.encode())])
    value = rng.standard_normal(shape)
    if name.endswith("gamma") or "norm" in name or "ln_q" in name:
        value = 1 + 0.2 * value
    elif name.endswith("bias"):
        value *= 0.1
    elif "embed_tokens" in name:
        pass
    else:  # a single frame meets one temporal tap of a 3D kernel
        taps = shape[2] if len(shape) == 5 and shape[3] == 3 else 1
        value *= 1.5 / np.sqrt(np.prod(shape[1:]) / taps)
    for pattern, factor in COMMON + factors:
        if re.search(pattern, name):
            value *= factor
    return torch.from_numpy(value.astype(np.float32))


def fill(module, model_name, factors):
    """Give every parameter its random value."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(init_tensor(model_name, name, tuple(parameter.shape), factors))
    return module


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def build_tokenizer(folder, spec):
    """A byte-level BPE folder; returns the ids of the added tokens and vocab_size.

    "merges" keeps only the first merges, so that the template's prefix is no longer 34 tokens."""
    ids = qwen_tokenizer.build(str(folder), spec["words"])
    if "merges" in spec:
        merges = folder / "merges.txt"
        lines = merges.read_text(encoding="utf-8").splitlines(keepends=True)
        merges.write_text("".join(lines[:spec["merges"] + 1]), encoding="utf-8")
    return ids


def build_text_encoder(folder, name, spec, ids, dtype, shard_size):
    """Qwen2.5-VL with the smallest vision tower, its config in one of three forms:

    "nested"  as transformers 5 writes it: text_config with rope_parameters
    "flat"    the text fields at the top level, with rope_scaling and rope_theta
    "both"    the published form of transformers 4: flat plus an equal text_config"""
    text = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "vocab_size": ids["vocab_size"], "max_position_embeddings": 4096,
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], **spec["text"]}
    sections, theta = text.pop("mrope_section"), text.pop("rope_theta")
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 12, "num_heads": 1, "fullatt_block_indexes": [0],
              "out_hidden_size": text["hidden_size"]}
    token_ids = {f"{key}_token_id": ids[token] for key, token in
                 [("image", "<|image_pad|>"), ("video", "<|video_pad|>"), ("vision_start", "<|vision_start|>"),
                  ("vision_end", "<|vision_end|>")]}
    rope = {"rope_type": "default", "rope_theta": theta, "mrope_section": sections}
    config = transformers.Qwen2_5_VLConfig(text_config={**text, "rope_parameters": rope}, vision_config=vision,
                                           **token_ids)
    model = fill(transformers.Qwen2_5_VLForConditionalGeneration(config), name, spec.get("text_factors", []))
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size, save_original_format=spec["old_names"])
    if spec["form"] == "nested":
        return

    flat = {**text, "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "max_window_layers": 28,
            "sliding_window": 32768, "use_cache": True, "use_sliding_window": False, "rope_theta": theta,
            "rope_scaling": {"mrope_section": sections, "rope_type": "default", "type": "default"}}
    published = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
                 "tie_word_embeddings": False, "torch_dtype": str(dtype).removeprefix("torch."),
                 "transformers_version": "4.53.1", "vision_token_id": ids["<|vision_pad|>"], **token_ids, **flat,
                 "vision_config": {**vision, "hidden_act": "silu", "in_channels": 3, "in_chans": 3, "patch_size": 14,
                                   "model_type": "qwen2_5_vl", "spatial_merge_size": 2, "spatial_patch_size": 14,
                                   "temporal_patch_size": 2, "tokens_per_second": 2, "window_size": 112}}
    if spec["form"] == "both":
        published["text_config"] = {**flat, "model_type": "qwen2_5_vl_text", "sliding_window": None,
                                    "layer_types": ["full_attention"] * text["num_hidden_layers"]}
    write_json(folder / "config.json", published)


def build_model(name, spec):
    """Write the checkpoint folder of one model."""
    folder = HERE / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    dtype = make_reference.DTYPES[spec.get("dtype", "f32")]
    shard_size = spec.get("shard_size", "1GB")

    ids = build_tokenizer(folder / "tokenizer", spec)
    build_text_encoder(folder / "text_encoder", name, spec, ids, dtype, shard_size)
    transformer = diffusers.QwenImageTransformer2DModel(**spec["transformer"])
    fill(transformer, name, spec.get("transformer_factors", []))
    transformer.to(dtype).save_pretrained(folder / "transformer", max_shard_size=shard_size)
    vae = fill(diffusers.AutoencoderKLQwenImage(**spec["vae"]), name, [])
    vae.to(dtype).save_pretrained(folder / "vae")
    if spec["form"] == "both":  # the published configs are older than some fields that diffusers now writes
        for part, added, removed in [
                ("transformer", {"pooled_projection_dim": 768},
                 ["use_additional_t_cond", "use_layer3d_rope", "zero_cond_t"]),
                ("vae", {}, ["input_channels"])]:
            path = folder / part / "config.json"
            config = json.loads(path.read_text(encoding="utf-8"))
            write_json(path, {k: v for k, v in {**config, **added}.items() if k not in removed})
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**{**SCHEDULER, **spec.get("scheduler", {})})
    scheduler.save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", {
        "_class_name": "QwenImagePipeline", "_diffusers_version": "0.34.0.dev0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage"]})
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def relative_l2(value, reference):
    return float(np.linalg.norm(value.astype(np.float64) - reference) / np.linalg.norm(reference.astype(np.float64)))


def psnr(value, reference):
    return float(-10 * np.log10(np.mean((value.astype(np.float64) - reference) ** 2)))


def record_references(name, spec):
    """Record the references of one model; see README.md for the bf16 fields."""
    pipe = make_reference.load_pipeline(HERE / name)
    pipe_bf16 = None
    for label, request in spec["references"].items():
        request = dict({"with_stages": True}, **request)
        with_bf16_error = request.pop("bf16_error", False)
        tensors, metadata = make_reference.record(pipe, **request)
        if with_bf16_error:
            pipe_bf16 = pipe_bf16 or make_reference.load_pipeline(HERE / name, torch.bfloat16)
            rounded, _ = make_reference.record(pipe_bf16, **{**request, "with_stages": False})
            for key, value in [
                    ("bf16_rel_l2_prompt_embeds", relative_l2(rounded["prompt_embeds"], tensors["prompt_embeds"])),
                    ("bf16_rel_l2_latents", relative_l2(rounded["latents"][-1], tensors["latents"][-1])),
                    ("bf16_psnr_image", psnr(rounded["image"], tensors["image"]))]:
                metadata[key] = f"{value:.6g}"
        make_reference.write_safetensors(HERE / name / f"ref_{label}.safetensors", tensors, metadata)


def write_tokenizer_cases(tokenizer_dir, path):
    """Record the ids of many awkward texts, one case a line.

    The installed Qwen2Tokenizer splits at the added tokens first and then normalises the pieces. Earlier versions
    normalised the whole text first; where that gives other ids they are recorded as slow_ids."""
    tokenizer = transformers.Qwen2Tokenizer.from_pretrained(tokenizer_dir)
    lines = []
    for text in tokenizer_texts.texts():
        case = {"text": text, "ids": tokenizer(text).input_ids}
        slow = tokenizer(unicodedata.normalize("NFC", text)).input_ids
        if slow != case["ids"]:
            case["slow_ids"] = slow
        lines.append(json.dumps(case))
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def write_rng_vectors(path):
    """Record torch.randn on the CPU; the lengths take each of its code paths."""
    vectors = {}
    for dtype_name, dtype in make_reference.DTYPES.items():
        for seed in (0, 42, 2**32 + 7, 123456789012345):
            for n in (5, 15, 16, 17, 100, 4096):
                generator = torch.Generator().manual_seed(seed)
                values = torch.randn(n, generator=generator, dtype=dtype)
                vectors[f"cpu.{dtype_name}.seed{seed}.n{n}"] = values.float().numpy()
    make_reference.write_safetensors(path, vectors, {"torch": torch.__version__.partition("+")[0]})


def check(names):
    """Load every reference back, refuse NaN, constant or saturated pictures, and print a table.

    "guidance" is how far the first unconditional prediction is from the conditional one."""
    from safetensors import safe_open
    print(f"{'reference':28} {'size':>9} {'steps':>5} {'cfg':>4} {'rows':>4} {'|latents|':>9} {'image mean':>10} "
          f"{'std':>6} {'clipped':>7} {'guidance':>8}")
    for name in names:
        for path in sorted((HERE / name).glob("ref_*.safetensors")):
            with safe_open(path, "np") as file:
                info, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
            image = tensors["image"]
            clipped = float(np.mean((image == 0) | (image == 1)))
            guidance = "-"
            if "velocity.uncond" in tensors:
                guidance = f"{relative_l2(tensors['velocity.uncond'], tensors['velocity.cond']):.3f}"
            print(f"{name + '/' + path.stem[4:]:28} {info['width'] + 'x' + info['height']:>9} {info['steps']:>5} "
                  f"{info['cfg']:>4} {len(tensors['prompt_embeds']):>4} {tensors['latents'][-1].std():9.3f} "
                  f"{image.mean():10.3f} {image.std():6.3f} {clipped:7.3f} {guidance:>8}"
                  + "".join(f"  {k[5:]} {v}" for k, v in sorted(info.items()) if k.startswith("bf16_")))
            if not all(np.isfinite(t).all() for t in tensors.values()):
                sys.exit(f"{path}: not finite")
            if image.std() < 0.05 or clipped > 0.3 or not 0.1 < tensors["latents"][-1].std() < 10:
                sys.exit(f"{path}: picture or latents are degenerate")


def main():
    parser = argparse.ArgumentParser(description="Re-create the golden checkpoints and references.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS) + ", rng")
    parser.add_argument("--vocabulary", metavar="DIR", help="write tokenizer_cases.json from this tokenizer folder")
    parser.add_argument("--check", action="store_true", help="only load and summarise what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", FutureWarning)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()

    names = args.names or [*MODELS, "rng"]
    models = [name for name in names if name != "rng"]
    if args.vocabulary:
        write_tokenizer_cases(args.vocabulary, HERE / "tokenizer_cases.json")
        return
    if not args.check:
        for name in models:
            build_model(name, MODELS[name])
            record_references(name, MODELS[name])
            if MODELS[name].get("tokenizer_cases"):
                write_tokenizer_cases(HERE / name / "tokenizer", HERE / name / "tokenizer_cases.json")
        if "rng" in names:
            write_rng_vectors(HERE / "rng.safetensors")
    check(models)


if __name__ == "__main__":
    main()
