#!/usr/bin/env python3
"""Write the trained demo model as a checkpoint folder in the published layout, all weights bf16.

    export.py --vae vae.pt --weights FOLDER --guidance 4 --out models/demo
    export.py --model models/demo --weights FOLDER --guidance 4 --out models/demo

FOLDER holds transformer.safetensors and text_encoder.safetensors as saved by train_dit.py; with --model the VAE
is that of an exported folder.  Each VAE kernel
becomes the last temporal tap of a 3x3x3 one; the taps and time convolutions that one frame never uses are zero,
and so is the (minimal) vision tower, which text-to-image does not use either.
"""
import argparse
import json
import os

import torch
from safetensors.torch import load_file, save_file

import model
import scenes
from model import qwen_tokenizer

VERSION = "0.34.0.dev0"
VISION = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=1, patch=14, frames=2, merge=2)


def write_json(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2)
        f.write("\n")


def save(weights, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({k: v.bfloat16().contiguous() for k, v in weights.items()}, path, metadata={"format": "pt"})


def vae_weights(state):
    """Published names and shapes from the two-dimensional network's."""
    out = {}
    for name, t in state.items():
        if name in ("mean", "std"):
            continue
        if name.endswith("gamma"):
            t = t.view(-1, 1, 1) if "attentions" in name else t.view(-1, 1, 1, 1)
        elif t.dim() == 4 and "resample" not in name and "attentions" not in name:
            if t.shape[-1] == 3:
                t = torch.stack((torch.zeros_like(t), torch.zeros_like(t), t), 2)
            else:
                t = t.unsqueeze(2)
        out[name] = t
        if name.endswith("resample.1.weight"):
            base = name[:-len("resample.1.weight")] + "time_conv."
            c = t.shape[1]
            level = int(name.split(".")[2])
            if name.startswith("encoder") and level != model.VAE["num_res_blocks"]:  # the first one is spatial only
                out[base + "weight"], out[base + "bias"] = torch.zeros(c, c, 3, 1, 1), torch.zeros(c)
            elif name.startswith("decoder") and level < 2:
                out[base + "weight"], out[base + "bias"] = torch.zeros(2 * c, c, 3, 1, 1), torch.zeros(2 * c)
    return out


def vae_state(folder):
    """The two-dimensional network's state from an exported folder."""
    out = {}
    for name, t in load_file(os.path.join(folder, "vae", "diffusion_pytorch_model.safetensors")).items():
        if "time_conv" in name:
            continue
        if name.endswith("gamma"):
            t = t.flatten()
        elif t.dim() == 5:
            t = t[:, :, -1]
        out[name] = t.float()
    with open(os.path.join(folder, "vae", "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    return {**out, "mean": torch.tensor(config["latents_mean"]), "std": torch.tensor(config["latents_std"])}


def vision_weights(hidden):
    v = VISION
    h, f = v["hidden_size"], v["intermediate_size"]
    m = h * v["merge"] ** 2
    shapes = {"patch_embed.proj.weight": (h, 3, v["frames"], v["patch"], v["patch"]),
              "merger.ln_q.weight": (h,), "merger.mlp.0.weight": (m, m), "merger.mlp.0.bias": (m,),
              "merger.mlp.2.weight": (hidden, m), "merger.mlp.2.bias": (hidden,)}
    for i in range(v["depth"]):
        for name, shape in {"norm1.weight": (h,), "norm2.weight": (h,), "attn.qkv.weight": (3 * h, h),
                            "attn.qkv.bias": (3 * h,), "attn.proj.weight": (h, h), "attn.proj.bias": (h,),
                            "mlp.gate_proj.weight": (f, h), "mlp.gate_proj.bias": (f,),
                            "mlp.up_proj.weight": (f, h), "mlp.up_proj.bias": (f,),
                            "mlp.down_proj.weight": (h, f), "mlp.down_proj.bias": (h,)}.items():
            shapes[f"blocks.{i}.{name}"] = shape
    return {"visual." + k: torch.zeros(s) for k, s in shapes.items()}


def text_config(ids):
    t, v = model.TEXT, VISION
    shared = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0,
              "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "hidden_act": "silu",
              "hidden_size": t["hidden_size"], "initializer_range": 0.02, "intermediate_size": t["intermediate_size"],
              "max_position_embeddings": 4096, "max_window_layers": t["num_hidden_layers"],
              "num_attention_heads": t["num_attention_heads"], "num_hidden_layers": t["num_hidden_layers"],
              "num_key_value_heads": t["num_key_value_heads"], "rms_norm_eps": t["rms_norm_eps"],
              "rope_scaling": {"mrope_section": t["mrope_section"], "rope_type": "default", "type": "default"},
              "rope_theta": t["rope_theta"], "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
              "use_sliding_window": False, "vision_end_token_id": ids["<|vision_end|>"],
              "vision_start_token_id": ids["<|vision_start|>"], "vision_token_id": ids["<|vision_pad|>"],
              "vocab_size": ids["vocab_size"]}
    inner = {**shared, "model_type": "qwen2_5_vl_text", "image_token_id": None, "video_token_id": None,
             "sliding_window": None, "layer_types": ["full_attention"] * t["num_hidden_layers"]}
    vision = {"depth": v["depth"], "fullatt_block_indexes": [v["depth"] - 1], "hidden_act": "silu",
              "hidden_size": v["hidden_size"], "in_channels": 3, "in_chans": 3, "initializer_range": 0.02,
              "intermediate_size": v["intermediate_size"], "model_type": "qwen2_5_vl", "num_heads": v["num_heads"],
              "out_hidden_size": t["hidden_size"], "patch_size": v["patch"], "spatial_merge_size": v["merge"],
              "spatial_patch_size": v["patch"], "temporal_patch_size": v["frames"], "tokens_per_second": 2,
              "torch_dtype": "bfloat16", "window_size": 112}
    return {**shared, "model_type": "qwen2_5_vl", "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"], "sliding_window": 32768, "text_config": inner,
            "transformers_version": "4.53.1", "vision_config": vision}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vae", default="/tmp/demo/vae.pt")
    p.add_argument("--model", help="exported folder to take the VAE from, instead of --vae")
    p.add_argument("--weights", default="/tmp/demo")
    p.add_argument("--guidance", type=float, default=4.0)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--out", required=True)
    args = p.parse_args()

    def path(*parts):
        return os.path.join(args.out, *parts)

    state = vae_state(args.model) if args.model else torch.load(args.vae, map_location="cpu")
    save(vae_weights(state), path("vae", "diffusion_pytorch_model.safetensors"))
    write_json(path("vae", "config.json"), {
        "_class_name": "AutoencoderKLQwenImage", "_diffusers_version": VERSION, "attn_scales": [],
        "base_dim": model.VAE["base_dim"], "dim_mult": model.VAE["dim_mult"], "dropout": 0.0,
        "latents_mean": [round(v, 6) for v in state["mean"].tolist()],
        "latents_std": [round(v, 6) for v in state["std"].tolist()],
        "num_res_blocks": model.VAE["num_res_blocks"], "temperal_downsample": [False, True, True],
        "z_dim": model.VAE["z_dim"]})

    save(load_file(os.path.join(args.weights, "transformer.safetensors")),
         path("transformer", "diffusion_pytorch_model.safetensors"))
    write_json(path("transformer", "config.json"), {
        "_class_name": "QwenImageTransformer2DModel", "_diffusers_version": VERSION, **model.DIT,
        "guidance_embeds": False, "pooled_projection_dim": 768})

    os.makedirs(path("tokenizer"), exist_ok=True)
    ids = qwen_tokenizer.build(path("tokenizer"), scenes.VOCABULARY)
    weights = load_file(os.path.join(args.weights, "text_encoder.safetensors"))
    save({**weights, **vision_weights(model.TEXT["hidden_size"])}, path("text_encoder", "model.safetensors"))
    write_json(path("text_encoder", "config.json"), text_config(ids))

    write_json(path("scheduler", "scheduler_config.json"), {
        "_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": VERSION, "base_image_seq_len": 256,
        "base_shift": 0.5, "invert_sigmas": False, "max_image_seq_len": 8192, "max_shift": 0.9,
        "num_train_timesteps": 1000, "shift": 1.0, "shift_terminal": 0.02, "stochastic_sampling": False,
        "time_shift_type": "exponential", "use_beta_sigmas": False, "use_dynamic_shifting": True,
        "use_exponential_sigmas": False, "use_karras_sigmas": False})
    write_json(path("model_index.json"), {
        "_class_name": "QwenImagePipeline", "_diffusers_version": VERSION,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage"]})
    write_json(path("inkstone.json"), {"width": scenes.SIZE, "height": scenes.SIZE, "steps": args.steps,
                                       "guidance": args.guidance, "negative_prompt": " "})
    total = sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(args.out) for f in files)
    print(f"{args.out}: {total} bytes, {total / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
