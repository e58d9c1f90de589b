#!/usr/bin/env python3
"""Train the demo model's text encoder and diffusion transformer together by flow matching.

    train_dit.py --seconds 540 --span 0 0.5 --out /tmp/demo
    train_dit.py --seconds 540 --span 0.5 1 --out /tmp/demo --resume /tmp/demo/state.pt --seed 2
    train_dit.py --seconds 540 --model ../../models/demo --second --lr 1e-3 --seed 4 --out /tmp/demo

A pool of scenes is rendered and encoded by the VAE once; training draws batches from it.  x = (1 - t) data +
t noise, the target is noise - data, the loss the squared error; t is logit-normal with a uniform share.  A tenth
of the captions is dropped (to " ", a few to "").  The learning rate falls with a cosine over --span, of which a
run covers the given part by the clock.  --model starts from an exported folder, VAE included, instead of a state.
--q4 rounds the weights that `--precision q4` rounds, in every second step from that part of the span on; their
gradients go to the weights that were rounded.
Saved: state.pt (to resume), and the averaged weights rounded to bf16 as transformer.safetensors and
text_encoder.safetensors, which are then scored on held-out prompts.
"""
import argparse
import math
import os
import shutil
import time

import torch
from safetensors.torch import load_file, save_file

import check
import data
import export
import scenes
from model import AutoEncoder, Painter, VAE, encode_prompts, paint


def save_weights(painter, folder):
    for part in ("transformer", "text_encoder"):
        weights = {k: v.bfloat16().contiguous() for k, v in getattr(painter, part).state_dict().items()}
        save_file(weights, os.path.join(folder, part + ".safetensors"))


def load_weights(painter, folder):
    for part in ("transformer", "text_encoder"):
        weights = load_file(os.path.join(folder, part + ".safetensors"))
        getattr(painter, part).load_state_dict({k: v.float() for k, v in weights.items()})


def load_exported(painter, folder):
    for part, name in (("transformer", "diffusion_pytorch_model"), ("text_encoder", "model")):
        weights = load_file(os.path.join(folder, part, name + ".safetensors"))
        getattr(painter, part).load_state_dict({k: v.float() for k, v in weights.items() if not k.startswith("visual.")})


def q4_matrices(painter):
    """What `inkstone quantize` makes smaller: attention and feed-forward of all layers and blocks."""
    return [p for name, p in painter.named_parameters() if p.dim() == 2 and "_mod." not in name
            and (".layers." in name or ".transformer_blocks." in name)]


def q4_levels(x, scale, bias):
    return ((x - bias) / scale).round().clamp(0, 15)


def q4_rounded(x):
    """x [groups, 64] as src/tensor/quantize.c rounds it to 4 bits."""
    def bf16(t):
        return t.bfloat16().float()

    least, most = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    scale = bf16((most - least) / 15).clamp(min=1e-30)
    bias = bf16(torch.where((least < 0) & (most > 0), -scale * (-least / scale).round(), least))
    best = q4_levels(x, scale, bias) * scale + bias
    error = (best - x).pow(2).sum(1, keepdim=True)
    for share in (1.0, 0.92):
        scale = (share * (most - least) / 15).clamp(min=1e-30)
        codes = q4_levels(x, scale, (least + most) / 2 - scale * 7.5)
        codes_sum, x_sum = codes.sum(1, keepdim=True), x.sum(1, keepdim=True)
        variance = 64 * codes.pow(2).sum(1, keepdim=True) - codes_sum.pow(2)
        scale = bf16((64 * (codes * x).sum(1, keepdim=True) - codes_sum * x_sum) / variance).clamp(min=1e-30)
        bias = bf16((x_sum - scale * codes_sum) / 64)
        tried = q4_levels(x, scale, bias) * scale + bias
        tried_error = (tried - x).pow(2).sum(1, keepdim=True)
        best = torch.where(tried_error < error, tried, best)
        error = torch.minimum(error, tried_error)
    return best


@torch.no_grad()
def round_q4(matrices):
    """Round the matrices in place; returns what they were."""
    kept = [w.clone() for w in matrices]
    rounded = q4_rounded(torch.cat([w.view(-1, 64) for w in matrices]))
    torch._foreach_copy_(matrices, [r.view_as(w) for r, w in
                                    zip(rounded.split([w.numel() // 64 for w in matrices]), matrices)])
    return kept


def report(workers, painter, vae, tokenizer, count, guidances, note="", steps=20):
    wanted = scenes.evaluation(count)
    for guidance in guidances:
        pictures = paint(painter, vae, tokenizer, [s.caption for s in wanted], steps, guidance, seed=1)
        table = check.summary(workers.starmap(check.score, list(zip(pictures, wanted)), 4))
        print(f"{note}guidance {guidance}: " + ", ".join(f"{k} {100 * a / max(b, 1):.1f}" for k, (a, b) in table.items()),
              flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=float, default=540, help="all of the run but the final scoring")
    p.add_argument("--span", type=float, nargs=2, default=(0, 1))
    p.add_argument("--batch", type=int, default=1024)
    p.add_argument("--pool", type=int, default=800000)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--warmup", type=int, default=300, help="steps")
    p.add_argument("--spread", type=float, default=1.0, help="freedom of layout, see scenes.py")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--vae", default="/tmp/demo/vae.pt")
    p.add_argument("--out", default="/tmp/demo")
    p.add_argument("--copy", help="also put the rounded weights in this folder")
    p.add_argument("--resume", help="state.pt of an earlier run")
    p.add_argument("--model", help="exported folder to start from and to take the VAE from")
    p.add_argument("--second", action="store_true", help="the second training's scenes, see scenes.py")
    p.add_argument("--q4", type=float, default=1.0, help="part of the span from which on every second step is rounded")
    p.add_argument("--every", type=int, default=500, help="steps between reports")
    p.add_argument("--eval", type=int, default=300, help="held-out prompts to score at the end")
    p.add_argument("--guidance", type=float, nargs="+", default=(1, 2, 3, 4, 5))
    p.add_argument("--profile", type=int, default=0, help="profile ten steps from this one on (with a GPU)")
    args = p.parse_args()
    start = time.time()
    for folder in filter(None, (args.out, args.copy)):
        os.makedirs(folder, exist_ok=True)
    workers = data.start_workers()
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    torch.manual_seed(args.seed)
    tokenizer = data.make_tokenizer()
    vae = AutoEncoder(**VAE).to(device)
    vae.load_state_dict(export.vae_state(args.model) if args.model else torch.load(args.vae, map_location=device))
    painter, slow = Painter(tokenizer).to(device), Painter(tokenizer).to(device)
    params, averages = list(painter.parameters()), list(slow.parameters())
    optimizer = torch.optim.AdamW([{"params": [t for t in params if t.dim() > 1], "weight_decay": 0.01},
                                   {"params": [t for t in params if t.dim() == 1], "weight_decay": 0.0}],
                                  args.lr, betas=(0.9, 0.98), fused=gpu)
    step = 0
    if args.model:
        load_exported(painter, args.model)
    slow.load_state_dict(painter.state_dict())
    if args.resume:
        state = torch.load(args.resume, map_location=device)
        painter.load_state_dict(state["painter"])
        slow.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    first = step

    background, sprites, ids, lengths = data.scene_rows(workers, 100 + args.seed, args.pool, device, args.spread,
                                                        args.second)
    pictures = data.make_renderer(device, gpu)

    def latents(b, s):
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=gpu):
            return vae.tokens(pictures(b, s).contiguous(memory_format=torch.channels_last)).bfloat16()

    encode = torch.compile(latents) if gpu else latents
    size = 500 if gpu else 20
    pool = torch.empty(args.pool // size * size, 64, 64, dtype=torch.bfloat16, device=device)
    for i in range(0, len(pool), size):
        pool[i:i + size] = encode(background[i:i + size], sprites[i:i + size])
    print(f"pool of {len(pool)} scenes ready after {time.time() - start:.0f} s", flush=True)

    empty, empty_lengths = (torch.from_numpy(a).to(device) for a in encode_prompts(tokenizer, [" ", ""]))

    def loss_of(x, text, rows):
        b = x.shape[0]
        drop = torch.rand(b, device=device)
        for i, (low, high) in enumerate(((0.0, 0.08), (0.08, 0.10))):
            hit = (drop >= low) & (drop < high)
            text = torch.where(hit[:, None], empty[i], text)
            rows = torch.where(hit, empty_lengths[i], rows)
        t = torch.sigmoid(torch.randn(b, device=device) + 0.4)
        t = torch.where(torch.rand(b, device=device) < 0.2, torch.rand(b, device=device), t)
        noise = torch.randn_like(x)
        with torch.autocast(device, torch.bfloat16, enabled=gpu):
            v = painter(x + t[:, None, None] * (noise - x), t, text, rows)
        return (v.float() - (noise - x)).pow(2).mean()

    matrices = q4_matrices(painter)
    compiled = torch.compile(loss_of) if gpu else loss_of
    order = torch.Generator(device).manual_seed(args.seed)
    begun, total, saved = time.time(), 0.0, time.time()
    budget = args.seconds - (begun - start)
    while (done := (time.time() - begun) / budget) < 1:
        progress = args.span[0] + (args.span[1] - args.span[0]) * done
        lr = args.lr * min(1, (step - first + 1) / args.warmup) * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        if step - first == args.profile > 0:
            profiler = torch.profiler.profile().__enter__()
        rows = torch.randint(len(pool), (args.batch,), device=device, generator=order)
        kept = round_q4(matrices) if progress >= args.q4 and step % 2 else None
        loss = compiled(pool[rows].float(), ids[rows].long(), lengths[rows].long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if kept:
            with torch.no_grad():
                torch._foreach_copy_(matrices, kept)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, params, 1 - min(0.9995, (step + 1) / (step + 20)))
        total = total + loss.detach()
        step += 1
        if step - first == args.profile + 10 and args.profile:
            torch.cuda.synchronize()
            profiler.__exit__(None, None, None)
            print(profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=90))
        if step % args.every == 0:
            print(f"dit step {step} {time.time() - start:.0f} s: loss {total.item() / args.every:.5f} lr {lr:.2e}", flush=True)
            total = 0.0
        if time.time() - saved > 120 and args.copy:
            save_weights(slow, args.copy)
            saved = time.time()

    torch.save({"painter": painter.state_dict(), "average": slow.state_dict(),
                "optimizer": optimizer.state_dict(), "step": step}, os.path.join(args.out, "state.pt"))
    save_weights(slow, args.out)
    if args.copy:
        for part in ("transformer", "text_encoder"):
            shutil.copy(os.path.join(args.out, part + ".safetensors"), args.copy)
    print(f"dit done: {step} steps after {time.time() - start:.0f} s", flush=True)
    load_weights(slow, args.out)
    if args.eval:
        report(workers, slow, vae, tokenizer, args.eval, args.guidance)
        if args.q4 < 1:
            round_q4(q4_matrices(slow))
            report(workers, slow, vae, tokenizer, args.eval, args.guidance, "4 bits, ")
    workers.close()
    print(f"scored after {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
