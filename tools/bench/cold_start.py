#!/usr/bin/env python3
"""Times a cold start: from the start of the process to the end of the first step, with the checkpoint in the page cache.

    python3 tools/make_synthetic.py /dev/shm/full --blocks 60 --text-layers 28 --torch cuda
    python3 tools/bench/cold_start.py /dev/shm/full --inkstone build-cuda/inkstone

runs `inkstone` in a terminal of its own and notes when its progress first shows each phase and the first step. The bytes are those
of every tensor that a step needs: the transformer, and the text encoder without lm_head, vision and the table of tokens, of which a
prompt needs a few rows; the VAE comes after the steps.
Their rate from the start of the process on is told beside what the link carries: copies of 1 GiB from pinned memory by torch, the
best of several, before and after the runs, and what threads read of the checkpoint's files, which is as fast as they come from the
page cache. Every run is a process of its own. One line of JSON for each run on standard output, the table on standard error.

Needs torch for the link alone; without it, or with --backend cpu, only the runs are timed.
"""
import argparse
import concurrent.futures
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
GB = 1e9
PHASES = ("loading", "reading the prompt", "preparing", "drawing", "decoding")

LINK = """
import torch
n, best = 1 << 30, 0.0
there = torch.empty(n, dtype=torch.uint8, device="cuda")
here = torch.empty(n, dtype=torch.uint8, pin_memory=True)
for _ in range(10):
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    there.copy_(here, non_blocking=True)
    ended.record()
    ended.synchronize()
    best = max(best, n / began.elapsed_time(ended) * 1e3)
print(torch.cuda.get_device_name(), best, sep="|")
"""


def measure_link():
    """Bytes a second and the GPU's name, or None. In a process of its own, since a context on the GPU takes memory."""
    done = subprocess.run([sys.executable, "-c", LINK], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if done.returncode != 0:
        return None
    name, rate = done.stdout.strip().split("|")
    return float(rate), name


# ---- the files -----------------------------------------------------------------------------------------------------------


def weight_files(model, component):
    folder = os.path.join(model, component)
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".safetensors")]


def tensors_of(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


def needed_bytes(model):
    """Of the tensors that the first step waits for."""
    sizes = {}
    for component in ("transformer", "text_encoder"):
        tensors = {}
        for path in weight_files(model, component):
            tensors |= tensors_of(path)
        sizes[component] = sum(n for name, n in tensors.items() if not re.search(r"(^|\.)(lm_head|visual|embed_tokens)\.", name))
    return sizes


def read_files(model, threads):
    """Reads all weights, which brings them to the page cache; bytes a second."""
    piece, pieces = 64 << 20, []
    for path in weight_files(model, "transformer") + weight_files(model, "text_encoder"):
        pieces += [(path, at) for at in range(0, os.path.getsize(path), piece)]
    buffers = [bytearray(piece) for _ in range(threads)]

    def read(share):
        total = 0
        for path, at in pieces[share::threads]:
            with open(path, "rb", buffering=0) as file:
                total += os.preadv(file.fileno(), [buffers[share]], at)
        return total

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(read, range(threads)))
    return total / (time.monotonic() - began)


# ---- a run ---------------------------------------------------------------------------------------------------------------


def run_once(command):
    """Seconds from the start of the process to what its progress showed first, to its end, and its own account."""
    try:
        ours, theirs = pty.openpty()
    except OSError:  # progress is told in lines then, of the phases that take longer
        ours, theirs = os.pipe()
    out, shown, seen = tempfile.TemporaryFile("w+"), "", {}
    began = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    while True:
        select.select([ours], [], [])
        try:
            text = os.read(ours, 65536).decode("utf-8", "replace")
        except OSError:  # a terminal of which the other side is closed
            break
        now = round(time.monotonic() - began, 3)
        if not text:
            break
        shown = (shown + text)[-65536:]
        for phase in PHASES:
            if phase not in seen and re.search(rf"[\r\n]{phase} *\[", shown):
                seen[phase] = now
        if "first step" not in seen and re.search(r"step [1-9]\d*/\d", shown):
            seen["first step"] = now
    os.close(ours)
    status = process.wait()
    seen["end"] = round(time.monotonic() - began, 3)
    out.seek(0)
    if status != 0 or "first step" not in seen:
        sys.exit(f"FAIL: {' '.join(command)}: exit status {status}, {', '.join(seen)}\n{shown[-2000:]}")
    return seen, json.loads(out.read())


def main():
    parser = argparse.ArgumentParser(description="Time a cold start, from the start of the process to the end of the first step.")
    parser.add_argument("model")
    parser.add_argument("--inkstone", default=os.path.join(os.path.dirname(os.path.dirname(HERE)), "build-cuda", "inkstone"))
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--threads", type=int, default=8, help="that read the files at first")
    options = parser.parse_args()
    if not os.access(options.inkstone, os.X_OK):
        sys.exit(f"FAIL: there is no {options.inkstone}")
    sizes = needed_bytes(options.model)
    total = sum(sizes.values())
    rate = read_files(options.model, options.threads)
    print("weights: " + ", ".join(f"{name} {n / GB:.1f} GB" for name, n in sizes.items()) +
          f"; {options.threads} threads read the files at {rate / GB:.1f} GB/s", file=sys.stderr, flush=True)
    links = [measure_link()] if options.backend != "cpu" else []
    cases = []
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as folder:
            seen, own = run_once([options.inkstone, "-m", options.model, "-p", "a red circle", "-n", " ", "-g", "4", "-S", "7",
                                  "-W", str(options.size), "-H", str(options.size), "-s", str(options.steps), "--backend",
                                  options.backend, "--precision", options.precision, "--json", "-o", folder + "/cold.png"])
        cases.append({"backend": options.backend, "precision": own["precision"], "size": options.size, "steps": options.steps,
                      "weight_bytes": total, "seconds_to": seen, "phase_seconds": own["phase_seconds"],
                      "total_seconds": own["total_seconds"], "bytes_per_second": total / seen["first step"]})
        print("run: " + ", ".join(f"{name} {at:.2f}" for name, at in seen.items()) + " s from the start; of its own account: " +
              ", ".join(f"{name} {seconds:.2f}" for name, seconds in own["phase_seconds"].items()), file=sys.stderr, flush=True)
    links += [measure_link()] if options.backend != "cpu" else []
    links = [link for link in links if link]
    limit = max((link[0] for link in links), default=None)
    for case in cases:
        print(json.dumps({**case, "link_bytes_per_second": limit, "device": links[0][1] if links else None}))
    best = max(case["bytes_per_second"] for case in cases)
    print(f"first step after {total / best:.2f} s: {total / GB:.1f} GB of weights at {best / GB:.2f} GB/s" +
          (f", {100 * best / limit:.0f} % of the {limit / GB:.1f} GB/s of {links[0][1]}'s link "
           f"({', '.join(f'{link[0] / GB:.1f}' for link in links)} before and after)" if limit else "; the link was not measured"),
          file=sys.stderr)


if __name__ == "__main__":
    main()
