"""Training data for the demo model: scene rows made by worker processes, pictures rendered on the device."""
import functools
import multiprocessing
import os
import tempfile

import numpy as np
import torch

import scenes
from model import encode_prompts, qwen_tokenizer

CHUNK = 4000


def make_tokenizer(folder=None):
    """The demo tokenizer; written to `folder` (a temporary one if none is given)."""
    folder = folder or tempfile.mkdtemp()
    qwen_tokenizer.build(folder, scenes.VOCABULARY)
    return qwen_tokenizer.Encoder(folder)


@functools.lru_cache(None)
def _tokenizer():
    return make_tokenizer()


def _chunk(seed, size, spread, second):
    many = scenes.sample_many(seed, size, spread, second)
    background, sprites = scenes.pack(many)
    ids, lengths = encode_prompts(_tokenizer(), [s.caption for s in many])
    return background.astype(np.uint8), sprites, ids.astype(np.int16), lengths.astype(np.int16)


def start_workers():
    """A process pool; call before anything touches the GPU."""
    return multiprocessing.get_context("fork").Pool(max(1, (os.cpu_count() or 2) - 1))


def scene_rows(workers, seed, count, device, spread=1.0, second=False):
    """background, sprites, ids, lengths of `count` training scenes, as tensors on the device."""
    jobs = [(seed * 1000000 + i, min(CHUNK, count - i * CHUNK), spread, second)
            for i in range((count + CHUNK - 1) // CHUNK)]
    chunks = workers.starmap(_chunk, jobs, 1)
    return [torch.from_numpy(np.concatenate(c)).to(device) for c in zip(*chunks)]


def make_renderer(device, compiled):
    """f(background, sprites) -> pictures [B, 3, size, size] in -1..1."""
    table, palette = torch.from_numpy(scenes.TABLE).to(device), torch.from_numpy(scenes.PALETTE).to(device)

    def pictures(background, sprites):
        return scenes.render(torch, table, palette, background.long(), sprites).permute(0, 3, 1, 2) / 127.5 - 1

    return torch.compile(pictures) if compiled else pictures
