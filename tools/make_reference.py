#!/usr/bin/env python3
"""Record what diffusers computes for one request, stage by stage.

    make_reference.py MODEL_DIR OUT.safetensors --prompt TEXT [options]

runs QwenImagePipeline on a checkpoint folder and writes the file that `inkstone --dump` writes and
`inkstone verify` reads. All tensors are F32, whatever dtype the run used:

    prompt_embeds    [n_tokens, hidden]     text states after the template prefix was dropped
    negative_embeds  [n_tokens, hidden]     the same of the negative prompt, only with CFG
    noise            [n_img, 64]            initial latents, packed
    sigmas           [steps + 1]            the last one is 0
    latents          [steps, n_img, 64]     after each step
    image            [height, width, 3]     0..1, before rounding to bytes

`__metadata__` holds the request as strings: prompt, negative_prompt, steps, cfg, width, height, seed, rng,
noise_dtype. rng is torch-cpu, torch-cpu-2.13 (bf16 noise of a CPU generator, as torch 2.13 draws it) or torch-cuda.
CFG is on if cfg > 1 and a negative prompt is given (an empty one counts); without it there is no
negative_embeds, negative_prompt is "" and cfg is "1".

--stages adds, for tests of single stages:

    token_ids, negative_token_ids  [n]              whole template, after truncation
    text.{i}         [n, hidden]                    states after layer i of the positive prompt; text.0 is the
                                                    embedding, the last one is after the final norm
    temb             [dim]                          time embedding of the first step
    block.{l}.img    [n_img, dim]                   block outputs of the first step, conditional pass
    block.{l}.txt    [n_tokens, dim]
    velocity.cond, velocity.uncond  [n_img, 64]     transformer outputs of the first step, before CFG

--widen computes in f32 on a device that has room for 16 bits a weight only: linear layers keep what is stored, and each
widens its own when it multiplies. The numbers are those of --dtype f32.

Needs torch, diffusers and transformers (requirements.txt beside this file). Building, running and testing
Inkstone does not.
"""

import argparse
import json

import numpy as np
import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
MAX_PROMPT_ROWS = 512  # the pipeline's default max_sequence_length


def write_safetensors(path, tensors, metadata):
    """Write numpy F32 arrays and string metadata; the same input gives the same bytes.

    The safetensors library stores the metadata in a random order."""
    header, offset = {"__metadata__": dict(sorted(metadata.items()))}, 0
    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise ValueError(f"{name}: {array.dtype}, expected float32")
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            out.write(np.ascontiguousarray(array).astype("<f4").tobytes())


def load_pipeline(model_dir, dtype=torch.float32, device="cpu", resident=False):
    """Load a checkpoint in dtype. resident: all of it on the device; else a GPU has one network at a time.

    The dtype must be given here: a later .to(bfloat16) would also round the text encoder's RoPE frequencies."""
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
    parts = {}
    if resident and device == "cuda":  # straight there: the largest network need not pass through memory of the host
        parts["transformer"] = QwenImageTransformer2DModel.from_pretrained(
            model_dir, subfolder="transformer", torch_dtype=dtype, device_map={"": device})
    pipe = QwenImagePipeline.from_pretrained(model_dir, torch_dtype=dtype, **parts)
    # diffusers assumes the published vocabulary, where the template's prefix has 34 tokens.
    prefix = pipe.prompt_template_encode.split("{}")[0]
    pipe.prompt_template_encode_start_idx = len(pipe.tokenizer(prefix).input_ids)
    pipe.set_progress_bar_config(disable=True)
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        if resident:
            pipe.to(device)
        else:
            pipe.enable_model_cpu_offload()
    return pipe


def widen(pipe):
    """Make a pipeline that was loaded in 16 bits compute in f32, without room for all of its weights in f32."""
    def forward(self, x):
        bias = self.bias if self.bias is None else self.bias.float()
        return torch.nn.functional.linear(x, self.weight.float(), bias)

    for model in (pipe.text_encoder, pipe.transformer, pipe.vae):
        for module in model.modules():
            if type(module) is torch.nn.Linear:
                module.forward = forward.__get__(module)
                continue
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()


def draw_noise(pipe, width, height, seed, dtype, rng):
    """Noise as the pipeline draws it, packed: [1, n_img, 64] in dtype."""
    device = "cuda" if rng == "torch-cuda" else "cpu"
    channels = pipe.transformer.config.in_channels // 4
    rows, columns = 2 * (height // 16), 2 * (width // 16)
    generator = torch.Generator(device).manual_seed(seed)
    noise = torch.randn((1, 1, channels, rows, columns), generator=generator, device=device, dtype=dtype)
    return pipe._pack_latents(noise, 1, channels, rows, columns).cpu()


def rng_spelling(rng, noise_dtype):
    """The generator as the file names it.

    On the CPU torch 2.13 rounds the float32 sample to bf16, where versions up to 2.11 draw quite another one from
    8 random bits a value: the installed torch is asked for a number that tells the two apart, 1.93 or -0.81."""
    if rng != "torch-cpu" or noise_dtype != "bf16":
        return rng
    sample = torch.randn(16, generator=torch.Generator().manual_seed(42), dtype=torch.bfloat16)
    return "torch-cpu-2.13" if sample[0] > 0 else "torch-cpu"


def as_array(tensor):
    """A float32 numpy copy without the batch dimension."""
    return tensor.detach()[0].float().cpu().numpy().copy()


def capture_stages(pipe, stages):
    """Make the next run fill the dict `stages`; returns the hooks to remove afterwards."""
    transformer, text_encoder = pipe.transformer, pipe.text_encoder
    text_calls, passes = [0], [0]

    def on_text(module, args, kwargs, output):
        name = "negative_token_ids" if text_calls[0] else "token_ids"
        stages[name] = kwargs["input_ids"][0].float().cpu().numpy()
        if not text_calls[0]:
            for i, states in enumerate(output.hidden_states):
                stages[f"text.{i}"] = as_array(states)
        text_calls[0] += 1

    def on_temb(module, args, output):
        if not passes[0]:
            stages["temb"] = as_array(output)

    def on_block(index):
        def hook(module, args, output):
            if not passes[0]:
                stages[f"block.{index}.txt"], stages[f"block.{index}.img"] = map(as_array, output)
        return hook

    def on_transformer(module, args, output):
        if passes[0] == 0:
            stages["velocity.cond"] = as_array(output[0])
        elif passes[0] == 1 and "negative_token_ids" in stages:
            stages["velocity.uncond"] = as_array(output[0])
        passes[0] += 1

    return [text_encoder.register_forward_hook(on_text, with_kwargs=True),
            transformer.time_text_embed.register_forward_hook(on_temb),
            transformer.register_forward_hook(on_transformer),
            *(block.register_forward_hook(on_block(i)) for i, block in enumerate(transformer.transformer_blocks))]


def record(pipe, prompt, negative=None, steps=50, cfg=4.0, width=1024, height=1024, seed=0,
           noise_dtype="f32", rng="torch-cpu", with_stages=False):
    """Run one request. Returns (tensors, metadata) as described at the top of this file."""
    if width % 16 or height % 16:
        raise ValueError("width and height must be multiples of 16")
    use_cfg = cfg > 1 and negative is not None
    noise = draw_noise(pipe, width, height, seed, DTYPES[noise_dtype], rng)

    embeds, latents, stages = [], [], {}
    encode_prompt = pipe.encode_prompt

    def keep_embeds(**kwargs):
        result = encode_prompt(**kwargs)
        embeds.append(as_array(result[0]))
        return result

    def keep_latents(pipe, step, timestep, values):
        latents.append(as_array(values["latents"]))
        return {}

    hooks = capture_stages(pipe, stages) if with_stages else []
    pipe.encode_prompt = keep_embeds
    try:
        image = pipe(prompt=prompt, negative_prompt=negative if use_cfg else None,
                     true_cfg_scale=cfg if use_cfg else 1.0, width=width, height=height, num_inference_steps=steps,
                     latents=noise, output_type="pt", callback_on_step_end=keep_latents,
                     max_sequence_length=MAX_PROMPT_ROWS).images
    finally:
        del pipe.encode_prompt
        for hook in hooks:
            hook.remove()

    tensors = {"prompt_embeds": embeds[0]}
    if use_cfg:
        tensors["negative_embeds"] = embeds[1]
    tensors["noise"] = as_array(noise)
    tensors["sigmas"] = pipe.scheduler.sigmas.float().cpu().numpy()
    tensors["latents"] = np.stack(latents)
    tensors["image"] = as_array(image).transpose(1, 2, 0)
    tensors.update(stages)
    metadata = {"prompt": prompt, "negative_prompt": negative if use_cfg else "", "steps": str(steps),
                "cfg": f"{cfg:.9g}" if use_cfg else "1", "width": str(width), "height": str(height),
                "seed": str(seed), "rng": rng_spelling(rng, noise_dtype), "noise_dtype": noise_dtype}
    return tensors, metadata


def main():
    parser = argparse.ArgumentParser(description="Record the stages of a diffusers run for `inkstone verify`.")
    parser.add_argument("model_dir")
    parser.add_argument("out")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--negative", help="negative prompt; without one there is no CFG")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="dtype of the models")
    parser.add_argument("--noise-dtype", choices=DTYPES, help="dtype in which the noise is drawn; default: --dtype")
    parser.add_argument("--rng", choices=["torch-cpu", "torch-cuda"], default="torch-cpu")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the models run")
    parser.add_argument("--widen", action="store_true", help="f32 from weights that stay in 16 bits, for a small GPU")
    parser.add_argument("--stages", action="store_true", help="also record token ids and inner stages")
    args = parser.parse_args()

    if args.widen and args.dtype != "f32":
        parser.error("--widen is a way to compute in f32")
    pipe = load_pipeline(args.model_dir, torch.bfloat16 if args.widen else DTYPES[args.dtype], args.device)
    if args.widen:
        widen(pipe)
    tensors, metadata = record(pipe, args.prompt, args.negative, args.steps, args.cfg, args.width, args.height,
                               args.seed, args.noise_dtype or args.dtype, args.rng, args.stages)
    write_safetensors(args.out, tensors, metadata)
    for name, array in tensors.items():
        print(f"{name:20} {list(array.shape)}")


if __name__ == "__main__":
    main()
