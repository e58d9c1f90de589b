#!/usr/bin/env python3
"""Make the LoRA files of tests/golden/lora, and record what diffusers and PEFT draw with them.

    make_lora.py [OUT_DIR]

The adapters are random and change the transformer of tests/golden/tiny:

    rank4.safetensors      LoRA of rank 4, alpha 6, of every linear layer, as pipe.save_lora_weights writes it
    rank4-peft/            the same as PEFT saves it
    rank4-kohya            the same with kohya's names, lora_unet_..., and an alpha beside each pair
    rank4-comfy            the same with ComfyUI's names, diffusion_model....lora_down, and alpha
    rank4-lora_A           the same as diffusion_model....lora_A with alpha in bf16
    rank16.safetensors     rank 16, alpha 4, of attention and MLP; some layers with rank and alpha of their own
    lokr/, lokr-lycoris    LoKr of rank 2, alpha 3, one factor a product; as PEFT saves it and with names of LyCORIS
    lokr-both/             both factors products, rank 1
    lokr-full/             both factors whole: a change of full rank
    loha/, loha-lycoris    LoHa of rank 3, alpha 5
    run_*.safetensors      references (make_reference.py), whose metadata names the files beside them

Needs PEFT beside the packages of requirements.txt. The same versions give the same bytes.
"""

import json
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import make_reference  # noqa: E402

MODEL = HERE.parent / "tests/golden/tiny"
LIGHTNING = 1.0986122886681098  # ln 3
REQUEST = {"prompt": "a red circle on a blue background", "steps": 2, "width": 48, "height": 32, "seed": 5}
GUIDED = {"prompt": "a cat", "negative": "blue", "cfg": 3, "steps": 2, "width": 32, "height": 48, "seed": 6}

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
MLP = ["net.0.proj", "net.2"]
EVERY = (r"(transformer_blocks\.\d+\.((img|txt)_mod\.1|(img|txt)_mlp\.net\.(0\.proj|2)|attn\."
         r"(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out))|img_in|txt_in|proj_out|norm_out\.linear|"
         r"time_text_embed\.timestep_embedder\.linear_[12])")


def fill(model, prefix, size):
    """Random values, by name, for what PEFT begins with zeros."""
    for name, parameter in model.named_parameters():
        if prefix not in name:
            continue
        name = name.replace(".default", "").removeprefix("base_model.model.")
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        with torch.no_grad():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


def write(path, tensors, metadata=None):
    """As safetensors does, but with the same bytes each time; bf16 for what is bf16."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, tensor in sorted(tensors.items()):
        bf16 = tensor.dtype == torch.bfloat16
        raw = (tensor.contiguous().view(torch.int16) if bf16 else tensor.float().contiguous()).numpy().tobytes()
        header[name] = {"dtype": "BF16" if bf16 else "F32", "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def rewrite(path):
    """What a library wrote, with its metadata in a fixed order."""
    from safetensors import safe_open
    with safe_open(path, "pt") as file:
        # Copies: the file, which is mapped, is about to be written over.
        tensors, metadata = {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}
    metadata.pop("format", None)
    write(path, tensors, dict(sorted(metadata.items())))
    path.chmod(0o644)
    return tensors


def save_folder(out, name, config, prefix, size):
    """Fresh adapter of that configuration, filled and saved by PEFT. Returns its tensors."""
    from peft import get_peft_model
    pipe = make_reference.load_pipeline(MODEL)
    model = get_peft_model(pipe.transformer, config)
    fill(model, prefix, size)
    folder = out / name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    about = json.loads((folder / "adapter_config.json").read_text())
    about["base_model_name_or_path"] = None
    for key, value in about.items():
        if isinstance(value, list):  # PEFT keeps sets, in any order
            about[key] = sorted(value)
    (folder / "adapter_config.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    return rewrite(folder / "adapter_model.safetensors")


def save_diffusers(out, name, config, size):
    from diffusers import QwenImagePipeline
    from peft import get_peft_model_state_dict
    pipe = make_reference.load_pipeline(MODEL)
    pipe.transformer.add_adapter(config)
    fill(pipe.transformer, "lora_", size)
    about = pipe.transformer.peft_config["default"].to_dict()
    about = {key: sorted(value) if isinstance(value, (set, list)) else value for key, value in about.items()}
    QwenImagePipeline.save_lora_weights(out, get_peft_model_state_dict(pipe.transformer), weight_name=name,
                                        transformer_lora_adapter_metadata=about)
    return rewrite(out / name)


def split(tensors):
    """{module: {part: tensor}} of PEFT's names."""
    modules = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("base_model.model.").removeprefix("transformer.").removesuffix(".weight")
        module, part = name.rsplit(".", 1)
        modules.setdefault(module, {})[part] = tensor
    return modules


def copies_of_rank4(out, tensors):
    kohya, comfy, peft_names = {}, {}, {}
    for module, parts in split(tensors).items():
        flat = "lora_unet_" + module.replace(".", "_")
        for names, prefix in ((kohya, flat), (comfy, "diffusion_model." + module)):
            names[prefix + ".lora_down.weight"] = parts["lora_A"]
            names[prefix + ".lora_up.weight"] = parts["lora_B"]
            names[prefix + ".alpha"] = torch.tensor(6.0)
        peft_names[f"diffusion_model.{module}.lora_A.weight"] = parts["lora_A"]
        peft_names[f"diffusion_model.{module}.lora_B.weight"] = parts["lora_B"]
        peft_names[f"diffusion_model.{module}.alpha"] = torch.tensor([6.0], dtype=torch.bfloat16)
    write(out / "rank4-kohya.safetensors", kohya)
    write(out / "rank4-comfy.safetensors", comfy)
    write(out / "rank4-lora_A.safetensors", peft_names)


def lycoris_copy(out, name, tensors, alpha):
    copy = {}
    for module, parts in split(tensors).items():
        flat = "lycoris_" + module.replace(".", "_")
        for part, tensor in parts.items():
            copy[f"{flat}.{part}"] = tensor
        copy[flat + ".alpha"] = torch.tensor(float(alpha))
    write(out / name, copy)


def record(out, name, loras, request, with_peft=False, lightning=False):
    """Draw with fresh weights and the adapters loaded from their files."""
    pipe = make_reference.load_pipeline(MODEL)
    metadata = {"loras": json.dumps([{"path": path, "scale": scale} for path, scale in loras], separators=(",", ":"))}
    if lightning:
        config = dict(pipe.scheduler.config) | {"base_shift": LIGHTNING, "max_shift": LIGHTNING, "shift_terminal": None}
        pipe.scheduler = type(pipe.scheduler).from_config(config)
        metadata |= {"base_shift": repr(LIGHTNING), "max_shift": repr(LIGHTNING), "shift_terminal": "0"}
    if with_peft:
        from peft import PeftModel
        PeftModel.from_pretrained(pipe.transformer, out / loras[0][0])  # layers are replaced in place
    elif loras:
        for i, (path, _) in enumerate(loras):
            pipe.load_lora_weights(out, weight_name=path, adapter_name=f"adapter{i}")
        pipe.set_adapters([f"adapter{i}" for i in range(len(loras))], [scale for _, scale in loras])
    tensors, about = make_reference.record(pipe, **request)
    make_reference.write_safetensors(out / f"run_{name}.safetensors", tensors, about | metadata)
    return tensors["image"]


def main():
    from peft import LoHaConfig, LoKrConfig, LoraConfig
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "tests/golden/lora"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    rank4 = LoraConfig(r=4, lora_alpha=6, target_modules=EVERY)
    save_diffusers(out, "rank4.safetensors", rank4, 0.25)
    copies_of_rank4(out, save_folder(out, "rank4-peft", rank4, "lora_", 0.25))
    save_diffusers(out, "rank16.safetensors",
                   LoraConfig(r=16, lora_alpha=4, target_modules=ATTENTION + MLP,
                              rank_pattern={"to_q": 8, "transformer_blocks.1.attn.to_k": 2},
                              alpha_pattern={"transformer_blocks.0.img_mlp.net.2": 11, "to_q": 5}), 0.25)
    lokr = save_folder(out, "lokr", LoKrConfig(r=2, alpha=3, target_modules=EVERY), "lokr_", 0.3)
    lycoris_copy(out, "lokr-lycoris.safetensors", lokr, 3)
    save_folder(out, "lokr-both", LoKrConfig(r=1, alpha=2, decompose_both=True, target_modules=ATTENTION + MLP),
                "lokr_", 0.5)
    save_folder(out, "lokr-full", LoKrConfig(r=64, alpha=40, target_modules=ATTENTION), "lokr_", 0.3)
    loha = save_folder(out, "loha", LoHaConfig(r=3, alpha=5, target_modules=EVERY), "hada_", 0.4)
    lycoris_copy(out, "loha-lycoris.safetensors", loha, 5)

    plain = record(out, "none", [], REQUEST)
    (out / "run_none.safetensors").unlink()
    for name, loras, request, options in [
            ("rank4", [("rank4.safetensors", 1.0)], REQUEST, {}),
            ("rank16", [("rank16.safetensors", 0.75)], REQUEST, {}),
            ("two", [("rank4.safetensors", 0.7), ("rank16.safetensors", -1.25)], GUIDED, {}),
            ("lightning", [("rank4.safetensors", 1.0)], REQUEST | {"steps": 4}, {"lightning": True}),
            *((name, [(name, 1.0)], REQUEST, {"with_peft": True}) for name in ("lokr", "lokr-both", "lokr-full", "loha"))]:
        image = record(out, name, loras, request, **options)
        moved = np.sqrt(np.mean((image - plain) ** 2)) if image.shape == plain.shape else float("nan")
        print(f"{name:10} RMS change of the picture {moved:.3f}")


if __name__ == "__main__":
    main()
