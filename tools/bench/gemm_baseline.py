#!/usr/bin/env python3
"""Rates of other libraries at the model's products: OpenBLAS (f32) and PyTorch (bf16 and f32, its oneDNN).

    ~/torchenv/bin/python tools/bench/gemm_baseline.py --threads 2
    OPENBLAS_CORETYPE=Haswell ~/torchenv/bin/python tools/bench/gemm_baseline.py --only openblas

x [M, K] times W^T, W [N, K], at M = 1056 and 4160 (512x512 and 1024x1024 with 34 text tokens, in whole tiles) and the N, K of the
transformer. OpenBLAS is the system's (libopenblas0) or the one that comes with NumPy; OPENBLAS_CORETYPE holds it to the instructions
of an older processor. One line of JSON for each library, type and shape, to be compared with `checkops --bench --op linear`.
"""
import argparse
import ctypes
import ctypes.util
import glob
import json
import os
import statistics
import sys
import time

ROWS = (1056, 4160)
LAYERS = ((3072, 3072), (12288, 3072), (3072, 12288))  # N, K


def medians(call, repeat):
    call()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times), min(times)


def report(library, dtype, threads, m, n, k, call, repeat):
    median, least = medians(call, repeat)
    rate = 2e-9 * m * n * k / median
    shape = {"m": m, "n": n, "k": k}
    case = {"backend": library, "op": "linear", "precision": dtype, "threads": threads, **shape}
    print(json.dumps({**case, "seconds": median, "seconds_min": least, "gflops": rate}), flush=True)


def open_blas():
    """The library and the prefix and suffix of its names."""
    import numpy

    found = ctypes.util.find_library("openblas")
    beside = os.path.join(os.path.dirname(os.path.dirname(numpy.__file__)), "numpy.libs", "lib*openblas*")
    candidates = ([found] if found else []) + sorted(glob.glob(beside))
    for path in candidates:
        library = ctypes.CDLL(path)
        for prefix, suffix in (("", ""), ("scipy_", "64_"), ("", "64_")):
            if hasattr(library, f"{prefix}cblas_sgemm{suffix}"):
                return library, prefix, suffix
    sys.exit("no OpenBLAS: apt-get install libopenblas0, or pip install numpy")


def time_openblas(threads, repeat):
    import numpy

    library, prefix, suffix = open_blas()
    integer = ctypes.c_int64 if suffix else ctypes.c_int
    getattr(library, f"{prefix}openblas_set_num_threads{suffix}")(ctypes.c_int(threads))
    core = getattr(library, f"{prefix}openblas_get_corename{suffix}")
    core.restype = ctypes.c_char_p
    name = f"openblas {core().decode()}"
    sgemm = getattr(library, f"{prefix}cblas_sgemm{suffix}")
    pointer = ctypes.POINTER(ctypes.c_float)
    sgemm.restype = None
    sgemm.argtypes = [ctypes.c_int] * 3 + [integer] * 3 + [ctypes.c_float, pointer, integer, pointer, integer]
    sgemm.argtypes += [ctypes.c_float, pointer, integer]
    random = numpy.random.default_rng(1)
    for m in ROWS:
        for n, k in LAYERS:
            x = random.standard_normal((m, k), dtype=numpy.float32)
            w = random.standard_normal((n, k), dtype=numpy.float32)
            y = numpy.empty((m, n), dtype=numpy.float32)
            a, b, c = (array.ctypes.data_as(pointer) for array in (x, w, y))
            row_major, plain, transposed = 101, 111, 112
            report(
                name, "f32", threads, m, n, k,
                lambda: sgemm(row_major, plain, transposed, m, n, k, 1.0, a, k, b, k, 0.0, c, n), repeat,
            )


def time_torch(threads, repeat):
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    name = f"torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}"
    for label, dtype in (("bf16", torch.bfloat16), ("f32", torch.float32)):
        for m in ROWS:
            for n, k in LAYERS:
                x, w = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
                bias = torch.randn(n, dtype=dtype)
                with torch.inference_mode():
                    report(name, label, threads, m, n, k, lambda: torch.nn.functional.linear(x, w, bias), repeat)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", choices=("openblas", "torch"))
    arguments = parser.parse_args()
    if arguments.only != "torch":
        time_openblas(arguments.threads, arguments.repeat)
    if arguments.only != "openblas":
        time_torch(arguments.threads, arguments.repeat)


if __name__ == "__main__":
    main()
