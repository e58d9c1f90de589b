#!/usr/bin/env python3
"""Times one full-width block of the diffusion transformer in PyTorch on the CPU: the same work as a block of `inkstone bench`.

    python3 -m venv ~/torchenv && ~/torchenv/bin/pip install torch==2.13.0 numpy
    ~/torchenv/bin/python tools/bench/torch_cpu_block.py --threads 2 --size 512x512 --precision bf16,f32

One line of JSON for each case, with the field names of `inkstone bench --json`. The module below is written from the definition of
the network (diffusers, transformer_qwenimage.py, QwenImageTransformerBlock): two streams, each with LayerNorm and modulation, an
attention over both with RMS norms of queries and keys and rotated pairs, and an MLP. As there, queries, keys and values are three
layers, and the modulation's product is not part of the time: its six vectors of each stream are made beforehand. bf16 is bf16
throughout, residual stream included, which is what people run.
"""
import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

DIM, HEADS, HEAD_DIM, AXES, EPS = 3072, 24, 128, (16, 56, 56), 1e-6


class Stream(torch.nn.Module):
    """What a block holds of one stream."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (torch.nn.Linear(DIM, DIM) for _ in range(4))
        self.up, self.down = torch.nn.Linear(DIM, 4 * DIM), torch.nn.Linear(4 * DIM, DIM)
        self.q_norm, self.k_norm = torch.nn.Parameter(torch.ones(HEAD_DIM)), torch.nn.Parameter(torch.ones(HEAD_DIM))


def normed(x, scale, shift):
    return F.layer_norm(x, (DIM,), eps=EPS) * (1 + scale) + shift


def rotated(x, angles):
    """x [batch, tokens, heads, head_dim], adjacent pairs turned by angles, in f32 as the reference does."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * angles[:, None]).flatten(-2).to(x.dtype)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.txt, self.img = Stream(), Stream()

    def heads(self, s, x, angles):
        shape = (*x.shape[:2], HEADS, HEAD_DIM)
        q = F.rms_norm(s.q(x).view(shape), (HEAD_DIM,), s.q_norm, EPS)
        k = F.rms_norm(s.k(x).view(shape), (HEAD_DIM,), s.k_norm, EPS)
        return rotated(q, angles), rotated(k, angles), s.v(x).view(shape)

    def forward(self, txt, img, angles, modulation):
        n_txt = txt.shape[1]
        mod = {"txt": modulation[0], "img": modulation[1]}
        parts = [
            self.heads(self.txt, normed(txt, mod["txt"][1], mod["txt"][0]), angles[:n_txt]),
            self.heads(self.img, normed(img, mod["img"][1], mod["img"][0]), angles[n_txt:]),
        ]
        q, k, v = (torch.cat(both, dim=1).transpose(1, 2) for both in zip(*parts))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out = []
        for name, s, x, a in (("txt", self.txt, txt, attended[:, :n_txt]), ("img", self.img, img, attended[:, n_txt:])):
            shift, scale, gate = mod[name][3:]
            x = x + mod[name][2] * s.out(a)
            hidden = F.gelu(s.up(normed(x, scale, shift)), approximate="tanh")
            out.append(x + gate * s.down(hidden))
        return out


def angles_of(n_txt, height, width):
    """Positions centred, text behind the larger half extent, on all axes; complex [n_txt + height * width, head_dim / 2]."""
    first = max(height // 2, width // 2)
    text = torch.arange(n_txt)[:, None] + first + torch.zeros(1, 3)
    rows = (torch.arange(height) - (height - height // 2)).repeat_interleave(width)
    cols = (torch.arange(width) - (width - width // 2)).repeat(height)
    positions = torch.cat([text, torch.stack([torch.zeros(height * width), rows, cols], dim=1)])
    parts = []
    for axis, n in enumerate(AXES):
        frequencies = 1 / 10000 ** (torch.arange(0, n, 2) / n)
        parts.append(positions[:, axis, None] * frequencies)
    angles = torch.cat(parts, dim=1)
    return torch.polar(torch.ones_like(angles), angles)


def time_case(dtype, width, height, batch, n_txt, repeat):
    n_img = (width // 16) * (height // 16)
    block = Block().to(dtype).eval()
    angles = angles_of(n_txt, height // 16, width // 16)
    txt, img = torch.randn(batch, n_txt, DIM, dtype=dtype), torch.randn(batch, n_img, DIM, dtype=dtype)
    modulation = 0.1 * torch.randn(2, 6, DIM, dtype=dtype)
    times = []
    with torch.inference_mode():
        for i in range(repeat + 1):  # the first warms up
            began = time.perf_counter()
            block(txt, img, angles, modulation)
            if i > 0:
                times.append(time.perf_counter() - began)
    n = n_txt + n_img
    flops = 24 * DIM * DIM * n + 4 * n * n * DIM
    return [t / batch for t in times], flops


def peak_bytes():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None


def sizes(text):
    width, height = (int(side) for side in text.split("x"))
    if width < 16 or height < 16 or width % 16 or height % 16:
        raise argparse.ArgumentTypeError("sides are multiples of 16")
    return width, height


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=0, help="default: torch's")
    parser.add_argument("--size", type=sizes, action="append", help="WxH, may be repeated (default: 512x512 and 1024x1024)")
    parser.add_argument("--precision", default="bf16,f32", help="bf16, f32 or both")
    parser.add_argument("--batch", type=int, default=1, help="2: both passes of guidance")
    parser.add_argument("--text-tokens", type=int, default=34)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    dtypes = {"bf16": torch.bfloat16, "f32": torch.float32}
    for precision in arguments.precision.split(","):
        if precision not in dtypes:
            sys.exit(f"--precision {precision}: expected bf16 or f32")
    torch.manual_seed(1)
    for precision in arguments.precision.split(","):
        for width, height in arguments.size or [(512, 512), (1024, 1024)]:
            times, flops = time_case(
                dtypes[precision], width, height, arguments.batch, arguments.text_tokens, arguments.repeat
            )
            median = statistics.median(times)
            case = {
                "backend": f"torch {torch.__version__}",
                "tier": torch.backends.cpu.get_cpu_capability(),
                "threads": torch.get_num_threads(),
                "precision": precision,
                "width": width,
                "height": height,
                "batch": arguments.batch,
                "blocks": 1,
                "text_tokens": arguments.text_tokens,
                "repeat": arguments.repeat,
                "seconds_per_forward": None,
                "seconds_per_block": median,
                "seconds_per_block_min": min(times),
                "tflops": 1e-12 * flops / median,
                "gflop_per_block": 1e-9 * flops,
                "roofline_tflops": None,
                "peak_bytes": peak_bytes(),
            }
            print(json.dumps(case), flush=True)


if __name__ == "__main__":
    main()
