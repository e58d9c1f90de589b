#!/usr/bin/env python3
"""Hold Inkstone to the framework at full width: 60 blocks of the published sizes with random weights.

    python3 tools/full_width_parity.py /dev/shm/full --inkstone build-cuda/inkstone

makes the checkpoint if it is not there (tools/make_synthetic.py --torch), lets diffusers draw from it in bf16, as people run
it, and in f32 (the stored numbers, widened; no TF32), from the same noise with guidance, and lets `inkstone verify` repeat the
f32 run in f32 and in bf16. Then it prints how far each is from the framework's f32 run, in the measures of verify, and

    PASS    when Inkstone's bf16 error is at most diffusers' bf16 error, in the last latents and in the picture

with exit status 0, else 1. References and table are kept in OUT; --reuse takes the references that are there.

Seconds of every part are printed. 60 blocks need 41 GB for the checkpoint and as much of the GPU; with Inkstone in f32, 57 GB
of the GPU, when Python has given its memory back. To try the script: --blocks 2 --device cpu --backend cpu --size 128 --steps 2.

Needs torch, diffusers, transformers and accelerate.
"""
import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
EMBEDS = ("prompt_embeds", "negative_embeds")


def say(text):
    print(text, file=sys.stderr, flush=True)


class Timed:
    """Says how many seconds its block took."""

    def __init__(self, what):
        self.what = what

    def __enter__(self):
        self.began = time.monotonic()

    def __exit__(self, kind, value, trace):
        say(f"{time.monotonic() - self.began:8.1f} s  {self.what}{' FAILED' if kind else ''}")


# ---- the framework -------------------------------------------------------------------------------------------------------


def errors_of(found, expected):
    """As `inkstone verify` measures."""
    import numpy as np

    def relative(x, y):
        x, y = x.astype(np.float64), y.astype(np.float64)
        return float(np.linalg.norm(x - y) / np.linalg.norm(y))

    errors = {name: relative(found[name], expected[name]) for name in (*EMBEDS, "latents") if name in expected}
    errors["last latents"] = relative(found["latents"][-1], expected["latents"][-1])
    mean = float(np.mean((found["image"].astype(np.float64) - expected["image"]) ** 2))
    errors["image"] = -10 * math.log10(mean) if mean > 0 else math.inf
    return errors


def describe(tensors):
    """Whether the network is a sensible one to compare."""
    import numpy as np

    stds = ", ".join(f"{step.std():.3g}" for step in tensors["latents"])
    say(f"            deviation of latents after each step {stds}; picture {tensors['image'].mean():.2f} +- {tensors['image'].std():.2f}")
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        sys.exit("FAIL: the framework's run is not finite")


def record(options):
    """Both runs of the framework, in a process of their own, which gives its memory back when it ends."""
    import torch

    sys.path.insert(0, HERE)
    import make_reference
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    request = {"prompt": options.prompt, "negative": options.negative, "cfg": options.cfg, "steps": options.steps,
               "width": options.size, "height": options.size, "seed": 7, "noise_dtype": "bf16"}
    with Timed("diffusers: load"):
        pipe = make_reference.load_pipeline(options.model, torch.bfloat16, options.device, resident=True)
    with Timed(f"diffusers: {options.steps} steps in bf16"):
        rounded, _ = make_reference.record(pipe, **request)
    describe(rounded)
    make_reference.widen(pipe)
    torch.set_float32_matmul_precision("highest")
    exactly = contextlib.nullcontext()
    if options.device == "cuda":
        from torch.nn.attention import SDPBackend, sdpa_kernel

        torch.cuda.empty_cache()
        exactly = sdpa_kernel(SDPBackend.MATH)
    with Timed(f"diffusers: {options.steps} steps in f32"), exactly:
        exact, metadata = make_reference.record(pipe, **request)
    describe(exact)
    errors = errors_of(rounded, exact)
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}, transformers {transformers.__version__}"
    place = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    make_reference.write_safetensors(options.reference, exact, metadata)
    with open(options.errors, "w", encoding="utf-8") as file:
        json.dump({"diffusers bf16": errors, "versions": versions, "device": place}, file)


# ---- Inkstone ------------------------------------------------------------------------------------------------------------


def verify(options, precision):
    command = [options.inkstone, "verify", "-m", options.model, options.reference, "--backend", options.backend,
               "--precision", precision, "--json", "-q"]
    with Timed(f"inkstone: verify in {precision}"):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    rows = json.loads(done.stdout).get("stages") if done.stdout else None
    if not rows:
        sys.exit(f"FAIL: {' '.join(command)}: exit status {done.returncode} {done.stdout}")
    errors = {}
    for row in rows:
        if row["note"]:
            sys.exit(f"FAIL: {row['stage']}: {row['note']}")
        if row["stage"] in ("noise", "sigmas"):
            if not row["passed"]:
                sys.exit(f"FAIL: {row['stage']} are not those of the reference: largest error {row['max_error']}")
            continue
        # JSON knows neither NaN nor infinity: a picture without any error has null for dB.
        exact = row["max_error"] == 0
        errors[row["stage"]] = row["relative_l2"] if row["stage"] != "image" else math.inf if exact else row["psnr"]
        if row["stage"] == "latents":
            errors["last latents"] = row["last_relative_l2"]
    return {name: math.nan if value is None else value for name, value in errors.items()}


# ---- the table -----------------------------------------------------------------------------------------------------------


def judge(ours, theirs, stage):
    return ours[stage] >= theirs[stage] if stage == "image" else ours[stage] <= theirs[stage]


def main():
    parser = argparse.ArgumentParser(description="Compare Inkstone with diffusers at full width, in f32 and in bf16.")
    parser.add_argument("model", help="folder of the checkpoint; made if it is not there")
    parser.add_argument("--out", help="folder for references and results (default: MODEL.parity)")
    parser.add_argument("--inkstone", default=os.path.join(os.path.dirname(HERE), "build-cuda", "inkstone"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="where torch makes weights and runs")
    parser.add_argument("--backend", default="cuda", help="where Inkstone runs")
    parser.add_argument("--blocks", type=int, default=60, help="of a checkpoint that is made")
    parser.add_argument("--text-layers", type=int, default=2, help="of a checkpoint that is made")
    parser.add_argument("--size", type=int, default=512, help="side of the picture")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--prompt", default="a red circle above the word INK on a white background")
    parser.add_argument("--negative", default="blurry, two words")
    parser.add_argument("--forms", default="", help="precisions besides, such as fp8,q8,q4,int8: for the table alone")
    parser.add_argument("--reuse", action="store_true", help="take the references that are in OUT already")
    parser.add_argument("--record", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = options.out or options.model.rstrip("/") + ".parity"
    options.reference = os.path.join(options.out, "ref_f32.safetensors")
    options.errors = os.path.join(options.out, "diffusers.json")
    if options.record:
        record(options)
        return
    if not os.access(options.inkstone, os.X_OK):
        sys.exit(f"FAIL: there is no {options.inkstone}")
    os.makedirs(options.out, exist_ok=True)
    # NVIDIA's libraries heed it whatever a program asks for.
    os.environ |= {"NVIDIA_TF32_OVERRIDE": "0"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    if not os.path.exists(os.path.join(options.model, "model_index.json")):
        with Timed(f"checkpoint: {options.blocks} blocks, {options.text_layers} text layers"):
            subprocess.run([sys.executable, os.path.join(HERE, "make_synthetic.py"), options.model, "--blocks", str(options.blocks),
                            "--text-layers", str(options.text_layers), "--torch", options.device], check=True)
    if not (options.reuse and os.path.exists(options.errors)):
        with Timed("diffusers: the whole process"):
            subprocess.run([sys.executable, *sys.argv, "--record"], check=True)
    with open(options.errors, encoding="utf-8") as file:
        recorded = json.load(file)
    theirs = recorded["diffusers bf16"]
    ours = {precision: verify(options, precision) for precision in ("f32", "bf16", *filter(None, options.forms.split(",")))}

    with open(os.path.join(options.model, "transformer", "config.json"), encoding="utf-8") as file:
        blocks = json.load(file)["num_layers"]
    print(f"{blocks} blocks, {options.size}x{options.size}, {options.steps} steps, guidance {options.cfg:g}; "
          f"{recorded['versions']} on {recorded['device']}")
    columns = "".join(f"{precision + ', ours':>12}" for precision in ours)
    print(f"{'relative L2; image in dB':26}{columns} {'bf16, theirs':>13}")
    failed = False
    for stage in [name for name in (*EMBEDS, "latents", "last latents", "image") if name in theirs]:
        form = ".1f" if stage == "image" else ".2e"
        passed, counts = judge(ours["bf16"], theirs, stage), stage in ("last latents", "image")
        failed |= counts and not passed
        verdict = ("PASS" if passed else "FAIL") if counts else ("no larger" if passed else "larger")
        columns = "".join(f"{errors[stage]:12{form}}" for errors in ours.values())
        print(f"{stage:26}{columns} {theirs[stage]:13{form}}  {verdict}")
    with open(os.path.join(options.out, "parity.json"), "w", encoding="utf-8") as file:
        json.dump({**recorded, **{f"inkstone {precision}": errors for precision, errors in ours.items()}, "blocks": blocks,
                   "size": options.size, "steps": options.steps, "passed": not failed}, file, indent=2)
    sys.exit(failed)


if __name__ == "__main__":
    main()
