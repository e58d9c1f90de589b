#!/usr/bin/env python3
"""Times one step of the Qwen-Image transformer in diffusers on a GPU, and the floor below it: its products and attentions alone.

    pip install torch diffusers transformers accelerate
    python3 tools/bench/diffusers_baseline.py --size 512,1024,1328
    python3 tools/bench/diffusers_baseline.py --only floor --blocks 10

Weights are random bf16 numbers, made on the device; no checkpoint is needed. A step is both passes of guidance, which diffusers is
given as a batch of 2 (its pipeline runs one after the other, which is slower), with 64 text tokens each. Modes:

    eager         as installed
    compiled      each block compiled (compile_repeated_blocks), attention of cuDNN
    graph         the same, in one CUDA graph
    eager-graph   not compiled, attention of cuDNN, in one CUDA graph
    products      what no implementation in bf16 goes below: the products of the blocks (F.linear without bias, both passes' rows
                  together, queries, keys and values as one layer), in a CUDA graph
    attentions    and the attentions (cuDNN, both passes as a batch), in a CUDA graph

`--blocks N` runs fewer than 60 blocks; the table scales the time of blocks to 60 of them only where it says so. One line of JSON
for each case on standard output, the table on standard error. Without a GPU (--device cpu, for a try with --tiny) there are no
graphs, and nothing is compiled.
"""
import argparse
import contextlib
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

BLOCKS, PASSES = 60, 2
MODES = ("eager", "compiled", "graph", "eager-graph", "products", "attentions")
FLOOR = ("products", "attentions")


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median(call, options):
    """Seconds of a call: the median of `repeat` after a warm-up, by events on a GPU."""
    for _ in range(options.warm):
        call()
    times = []
    for _ in range(options.repeat):
        synchronize(options.device)
        if options.device.type == "cuda":
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            call()
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended) / 1e3)
        else:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return statistics.median(times), min(times)


def in_graph(call, device):
    """Records the call, and returns what replays it."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


@contextlib.contextmanager
def cudnn(device):
    """Attention by cuDNN, or an error."""
    if device.type != "cuda":
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        yield


# ---- the transformer of diffusers ---------------------------------------------------------------------------------------


class Shape:
    """Widths of the network, and the rows of one pass."""

    def __init__(self, options, size):
        self.heads, self.head_dim, self.axes, self.text_dim = (4, 32, (8, 12, 12), 64) if options.tiny else (24, 128, (16, 56, 56), 3584)
        self.dim = self.heads * self.head_dim
        self.side = size // 16
        self.n_img, self.n_txt, self.blocks = self.side * self.side, options.text, options.blocks


def make_transformer(shape, device):
    from diffusers import QwenImageTransformer2DModel
    from diffusers.utils import logging

    logging.set_verbosity_error()
    kind = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = QwenImageTransformer2DModel(
                num_layers=shape.blocks,
                num_attention_heads=shape.heads,
                attention_head_dim=shape.head_dim,
                joint_attention_dim=shape.text_dim,
                axes_dims_rope=shape.axes,
            )
    finally:
        torch.set_default_dtype(kind)
    return model.to(device=device, dtype=torch.bfloat16).eval().requires_grad_(False)


def make_forward(model, shape, device):
    def numbers(*sizes):
        return torch.randn(*sizes, device=device, dtype=torch.bfloat16)

    inputs = {
        "hidden_states": numbers(PASSES, shape.n_img, 64),
        "encoder_hidden_states": numbers(PASSES, shape.n_txt, shape.text_dim),
        "timestep": torch.full((PASSES,), 0.7, device=device, dtype=torch.bfloat16),
        "img_shapes": [[(1, shape.side, shape.side)]] * PASSES,
        "return_dict": False,
    }

    def forward():
        with torch.inference_mode():
            return model(**inputs)

    return forward


def time_transformer(options, shape, modes, report):
    model = make_transformer(shape, options.device)
    forward = make_forward(model, shape, options.device)
    if "eager" in modes:
        report("eager", *median(forward, options))
    if options.device.type != "cuda":
        return
    with cudnn(options.device):
        if "eager-graph" in modes:
            attempt("eager-graph", lambda: report("eager-graph", *median(in_graph(forward, options.device), options)))
        if "compiled" in modes or "graph" in modes:
            torch._dynamo.reset()
            model.compile_repeated_blocks(fullgraph=True, dynamic=False)
        if "compiled" in modes:
            attempt("compiled", lambda: report("compiled", *median(forward, options)))
        if "graph" in modes:
            attempt("graph", lambda: report("graph", *median(in_graph(forward, options.device), options)))


# ---- the floor ----------------------------------------------------------------------------------------------------------


def products(shape):
    """Rows, width in and width out of each product of a block, both passes together."""
    d, layers = shape.dim, []
    for rows in (PASSES * shape.n_img, PASSES * shape.n_txt):
        layers += [(rows, d, 3 * d), (rows, d, d), (rows, d, 4 * d), (rows, 4 * d, d)]
    return layers


def make_products(options, shape):
    """Every block has weights of its own, as they do not stay in the caches."""
    def numbers(*sizes):
        return torch.randn(*sizes, device=options.device, dtype=torch.bfloat16)

    layers = products(shape)
    x = {(rows, k): numbers(rows, k) for rows, k, _ in layers}
    weights = [[numbers(n, k) for _, k, n in layers] for _ in range(shape.blocks)]

    def run():
        with torch.inference_mode():
            for block in weights:
                for (rows, k, _), w in zip(layers, block):
                    F.linear(x[rows, k], w)

    return run, shape.blocks * sum(2.0 * rows * k * n for rows, k, n in layers)


def make_attentions(options, shape):
    n = shape.n_img + shape.n_txt
    # As projections leave them: rows of tokens, heads side by side.
    qkv = torch.randn(PASSES, n, 3, shape.heads, shape.head_dim, device=options.device, dtype=torch.bfloat16)
    q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))

    def run():
        with torch.inference_mode(), cudnn(options.device):
            for _ in range(shape.blocks):
                F.scaled_dot_product_attention(q, k, v)

    return run, shape.blocks * 4.0 * PASSES * shape.heads * shape.head_dim * n * n


def time_floor(options, shape, mode, report):
    run, flop = (make_products if mode == "products" else make_attentions)(options, shape)
    if options.device.type == "cuda":
        run = in_graph(run, options.device)
    report(mode, *median(run, options), flop)


# ---- the table ----------------------------------------------------------------------------------------------------------


def attempt(mode, call):
    """A mode that a version of torch or diffusers cannot do is no reason to stop."""
    try:
        call()
    except Exception as error:  # whatever the compiler or the recording ran into
        print(f"{mode}: skipped: {type(error).__name__}: {str(error).splitlines()[0][:200]}", file=sys.stderr)


def time_size(options, size):
    shape = Shape(options, size)
    seconds = {}

    def report(mode, middle, least, flop=None):
        seconds[mode] = middle
        case = {"backend": "torch" if mode in FLOOR else "diffusers", "mode": mode, "precision": "bf16", "size": f"{size}x{size}"}
        case |= {"blocks": shape.blocks, "passes": PASSES, "text_tokens": shape.n_txt, "device": options.name}
        case |= {"torch": torch.__version__, "seconds": middle, "seconds_min": least}
        if flop:
            case["tflops"] = flop / middle / 1e12
        print(json.dumps(case), flush=True)
        whole = "" if shape.blocks == BLOCKS else f"   {1e3 * middle * BLOCKS / shape.blocks:9.1f} ms if {BLOCKS} blocks"
        rate = f"   {flop / middle / 1e12:7.1f} TFLOP/s" if flop else ""
        print(f"{size:5} {mode:12} {1e3 * middle:9.2f} ms{rate}{whole}", file=sys.stderr)

    for mode in FLOOR:
        if mode in options.only:
            attempt(mode, lambda mode=mode: time_floor(options, shape, mode, report))
    if all(mode in seconds for mode in FLOOR):
        report("floor", seconds["products"] + seconds["attentions"], seconds["products"] + seconds["attentions"])
    if options.device.type == "cuda":
        torch.cuda.empty_cache()
    modes = [mode for mode in options.only if mode not in FLOOR]
    if modes:
        attempt("diffusers", lambda: time_transformer(options, shape, modes, report))
    if options.device.type == "cuda":
        torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description="Times a step of the Qwen-Image transformer in diffusers, and its floor.")
    parser.add_argument("--size", default="512,1024,1328", help="sides of square pictures, multiples of 16")
    parser.add_argument("--only", default=",".join(MODES), help=f"of {', '.join(MODES)}; floor: the last two")
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--text", type=int, default=64, help="text tokens of each pass")
    parser.add_argument("--repeat", type=int, default=8)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a network that takes no time, to try this script")
    options = parser.parse_args()
    options.only = options.only.replace("floor", ",".join(FLOOR)).split(",")
    if unknown := [mode for mode in options.only if mode not in MODES]:
        parser.error(f"no such mode: {', '.join(unknown)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("skipped: torch sees no GPU (--device cpu --tiny only tries the script)")
    options.device = torch.device(options.device)
    options.name = torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else "cpu"
    torch.manual_seed(1)
    for size in options.size.split(","):
        time_size(options, int(size))


if __name__ == "__main__":
    main()
