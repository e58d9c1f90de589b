#!/usr/bin/env python3
"""Train the demo model's VAE on rendered scenes and save it with its latent statistics.

    train_vae.py --seconds 200 --out /tmp/demo/vae.pt

Loss: L1 + 2 x squared error + a small KL term, on pictures in -1..1.  The learning rate follows the clock.
"""
import argparse
import math
import os
import time

import torch

import data
from model import AutoEncoder, VAE


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=float, default=200)
    p.add_argument("--batch", type=int, default=96)
    p.add_argument("--scenes", type=int, default=400000)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--kl", type=float, default=3e-4)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--out", default="/tmp/demo/vae.pt")
    args = p.parse_args()
    workers = data.start_workers()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    background, sprites, _, _ = data.scene_rows(workers, args.seed, args.scenes, device)
    workers.close()
    torch.manual_seed(args.seed)
    vae = AutoEncoder(**VAE).to(device, memory_format=torch.channels_last)
    ema = AutoEncoder(**VAE).to(device)
    ema.load_state_dict(vae.state_dict())
    params, slow = list(vae.parameters()), list(ema.parameters())
    optimizer = torch.optim.AdamW(params, args.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=device == "cuda")
    pictures = data.make_renderer(device, device == "cuda")

    def losses(x):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            mean, logvar = vae.encode(x)
            mean, logvar = mean.float(), logvar.float()
            y = vae.decode(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).float()
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        mse = (y - x).pow(2).mean()
        return (y - x).abs().mean() + 2 * mse + args.kl * kl, mse, kl

    step_loss = torch.compile(losses) if device == "cuda" else losses
    order = torch.Generator(device).manual_seed(args.seed)
    start, step = time.time(), 0
    while (done := (time.time() - start) / args.seconds) < 1:
        lr = args.lr * min(1, (step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, done))))
        for group in optimizer.param_groups:
            group["lr"] = lr
        rows = torch.randint(len(background), (args.batch,), device=device, generator=order)
        loss, mse, kl = step_loss(pictures(background[rows], sprites[rows]).contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(slow, params, 1 - min(0.999, (step + 1) / (step + 20)))
        if step % 500 == 0:
            print(f"vae step {step} {time.time() - start:.0f} s: loss {loss.item():.5f} PSNR "
                  f"{10 * math.log10(4 / mse.item()):.2f} dB KL {kl.item():.3f}", flush=True)
        step += 1

    # latent statistics over at most 4096 scenes, then the reconstruction by the rounded weights
    with torch.no_grad():
        for t in ema.parameters():
            t.copy_(t.bfloat16().float())
        x = torch.cat([ema.encode(pictures(b, s))[0] for b, s in zip(background[:4096].split(64), sprites[:4096].split(64))])
        ema.mean.copy_(x.mean((0, 2, 3)))
        std = x.std((0, 2, 3))
        ema.std.copy_(torch.maximum(std, 0.2 * std.max()))  # a channel the KL term silenced is not blown up
        x = pictures(background[-64:], sprites[-64:])
        y = ema.picture(ema.tokens(x))
        print(f"vae done: {step} steps, PSNR {10 * math.log10(4 / (y - x).pow(2).mean().item()):.2f} dB, std",
              " ".join(f"{v:.2f}" for v in std.tolist()), flush=True)
    os.makedirs(os.path.dirname(args.out), exist_ok=True)
    torch.save({k: v.contiguous() for k, v in ema.state_dict().items()}, args.out)


if __name__ == "__main__":
    main()
