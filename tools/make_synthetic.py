#!/usr/bin/env python3
"""Make a checkpoint with the sizes of the published Qwen-Image and weights that mean nothing.

    python3 tools/make_synthetic.py OUT --blocks 8 --text-layers 4
    python3 tools/make_synthetic.py OUT --blocks 60 --text-layers 28 --vision-layers 32 --sparse
    python3 tools/make_synthetic.py OUT --blocks 60 --text-layers 28 --torch cuda

writes transformer and text encoder at full width, in bf16 and shards of at most 5 GB, with as many layers as
asked for: for tests of memory and speed at full size without a download.  Its pictures are noise.  Tokenizer,
scheduler and VAE are those of the demo model, which fit.  Weights are normal numbers of deviation 0.02, the same
on every run; with --sparse they are zeros, in files with holes that take no room on the disk.

Those numbers are a million, which every tensor repeats: good for speed and memory, but rows of a matrix are then the same.
With --torch cuda (or cpu) each number is drawn by itself, there, by torch: normal with deviation 0.02, also the biases; norm
weights 1 and a tenth of a normal number; the time embedding leans on slow frequencies, as trained ones do (bf16 turns the
others by radians: tests/golden/make_golden.py). Drawn by name, so the same on every run with the same kind of device. Writing
is done by several threads, and is what takes the time: a few seconds for 10 GB in /dev/shm.

Needs nothing but Python, and torch for --torch.
"""
import argparse
import array
import concurrent.futures
import json
import os
import queue
import random
import shutil
import struct
import zlib

DEMO = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "models", "demo")
DIM, HEADS, JOINT, CHANNELS = 3072, 24, 3584, 64
HIDDEN, MLP, KV, VOCABULARY = 3584, 18944, 512, 152064
VISION, VISION_MLP = 1280, 3420
SHARD_BYTES = 5_000_000_000
BLOCK = 1 << 20  # numbers that are drawn; tensors repeat them from different places on
DEVIATION = 0.02


def linear(name, out, n_in, bias=True):
    yield name + ".weight", [out, n_in]
    if bias:
        yield name + ".bias", [out]


def transformer_tensors(n_blocks):
    yield from linear("img_in", DIM, CHANNELS)
    yield from linear("txt_in", DIM, JOINT)
    yield "txt_norm.weight", [JOINT]
    yield from linear("time_text_embed.timestep_embedder.linear_1", DIM, 256)
    yield from linear("time_text_embed.timestep_embedder.linear_2", DIM, DIM)
    for i in range(n_blocks):
        block = f"transformer_blocks.{i}."
        for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "to_q", "to_k", "to_v", "to_out.0"):
            yield from linear(block + "attn." + name, DIM, DIM)
        for name in ("norm_added_q", "norm_added_k", "norm_q", "norm_k"):
            yield block + f"attn.{name}.weight", [DIM // HEADS]
        for stream in ("img", "txt"):
            yield from linear(block + stream + "_mlp.net.0.proj", 4 * DIM, DIM)
            yield from linear(block + stream + "_mlp.net.2", DIM, 4 * DIM)
            yield from linear(block + stream + "_mod.1", 6 * DIM, DIM)
    yield from linear("norm_out.linear", 2 * DIM, DIM)
    yield from linear("proj_out", CHANNELS, DIM)


def text_tensors(n_layers, n_vision):
    yield "model.embed_tokens.weight", [VOCABULARY, HIDDEN]
    for i in range(n_layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", [HIDDEN]
        yield layer + "post_attention_layernorm.weight", [HIDDEN]
        yield from linear(layer + "self_attn.q_proj", HIDDEN, HIDDEN)
        yield from linear(layer + "self_attn.k_proj", KV, HIDDEN)
        yield from linear(layer + "self_attn.v_proj", KV, HIDDEN)
        yield from linear(layer + "self_attn.o_proj", HIDDEN, HIDDEN, bias=False)
        yield from linear(layer + "mlp.gate_proj", MLP, HIDDEN, bias=False)
        yield from linear(layer + "mlp.up_proj", MLP, HIDDEN, bias=False)
        yield from linear(layer + "mlp.down_proj", HIDDEN, MLP, bias=False)
    yield "model.norm.weight", [HIDDEN]
    yield "lm_head.weight", [VOCABULARY, HIDDEN]
    for i in range(n_vision):
        block = f"visual.blocks.{i}."
        yield block + "norm1.weight", [VISION]
        yield block + "norm2.weight", [VISION]
        yield from linear(block + "attn.qkv", 3 * VISION, VISION)
        yield from linear(block + "attn.proj", VISION, VISION)
        yield from linear(block + "mlp.gate_proj", VISION_MLP, VISION)
        yield from linear(block + "mlp.up_proj", VISION_MLP, VISION)
        yield from linear(block + "mlp.down_proj", VISION, VISION_MLP)
    if n_vision:
        yield "visual.patch_embed.proj.weight", [VISION, 3, 2, 14, 14]
        yield "visual.merger.ln_q.weight", [VISION]
        yield from linear("visual.merger.mlp.0", 4 * VISION, 4 * VISION)
        yield from linear("visual.merger.mlp.2", HIDDEN, 4 * VISION)


def bf16(value):
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def drawn_numbers():
    source = random.Random(1)
    numbers = array.array("H", (bf16(source.gauss(0, DEVIATION)) for _ in range(BLOCK)))
    return 2 * numbers.tobytes()  # twice, so that a whole block can begin anywhere in the first


def count(shape):
    n = 1
    for size in shape:
        n *= size
    return n


def tensor_bytes(numbers, name, shape):
    """The tensor in pieces."""
    left = 2 * count(shape)
    if len(shape) == 1:
        yield struct.pack("<H", bf16(0.0 if name.endswith("bias") else 1.0)) * (left // 2)
        return
    first = 2 * (zlib.crc32(name.encode()) % BLOCK)
    while left:
        size = min(left, 2 * BLOCK)
        yield numbers[first:first + size]
        left -= size


class TorchNumbers:
    """Draws tensors on a device, and writes them to files with several threads while the next ones are drawn."""
    PIECE, THREADS = 1 << 25, 8  # numbers to a piece

    def __init__(self, device):
        import torch

        self.torch, self.device = torch, torch.device(device)
        self.pool = concurrent.futures.ThreadPoolExecutor(self.THREADS)
        self.free, self.written = queue.SimpleQueue(), []
        for _ in range(self.THREADS + 2):
            self.free.put(torch.empty(self.PIECE, dtype=torch.bfloat16, pin_memory=self.device.type == "cuda"))

    def draw(self, generator, name, shape, n):
        torch = self.torch
        if len(shape) == 1 and not name.endswith("bias"):
            return 1 + 0.1 * torch.randn(n, generator=generator, device=self.device)
        values = torch.randn(n, generator=generator, device=self.device, dtype=torch.bfloat16 if self.device.type == "cuda" else None)
        values *= DEVIATION
        if name.endswith("timestep_embedder.linear_1.weight"):
            i = torch.arange(shape[1], device=self.device) % (shape[1] // 2)
            values = (values.float().view(shape) / (1 + 100 * 10000.0 ** (-i / (shape[1] // 2)))).flatten()
        return values

    def write(self, file, offset, buffer, n):
        view = memoryview(buffer[:n].view(self.torch.uint8).numpy())
        while view:
            done = os.pwrite(file, view, offset)
            view, offset = view[done:], offset + done
        self.free.put(buffer)

    def write_tensor(self, file, offset, name, shape):
        generator, left = self.torch.Generator(self.device).manual_seed(zlib.crc32(name.encode())), count(shape)
        while left:
            n = min(left, self.PIECE)
            buffer = self.free.get()
            buffer[:n].copy_(self.draw(generator, name, shape, n))
            self.written.append(self.pool.submit(self.write, file, offset, buffer, n))
            offset, left = offset + 2 * n, left - n

    def finish(self):
        """Waits for what was given to the threads, and fails where one did."""
        for piece in self.written:
            piece.result()
        self.written.clear()


def write_shard(path, tensors, numbers):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        size = 2 * count(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if numbers is None:
            file.truncate(8 + len(text) + offset)
            return
        if isinstance(numbers, TorchNumbers):
            file.flush()
            for name, shape in tensors:
                numbers.write_tensor(file.fileno(), 8 + len(text) + header[name]["data_offsets"][0], name, shape)
            numbers.finish()
            return
        for name, shape in tensors:
            for piece in tensor_bytes(numbers, name, shape):
                file.write(piece)


def write_component(folder, stem, tensors, numbers):
    os.makedirs(folder)
    shards, filled = [[]], 0
    for name, shape in tensors:
        size = 2 * count(shape)
        if filled and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += size
    index = {"metadata": {"total_size": sum(2 * count(s) for shard in shards for _, s in shard)}, "weight_map": {}}
    for i, shard in enumerate(shards):
        file = f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        write_shard(os.path.join(folder, file), shard, numbers)
        index["weight_map"].update({name: file for name, _ in shard})
    with open(os.path.join(folder, stem + ".safetensors.index.json"), "w") as file:
        json.dump(index, file, indent=2)


def write_config(source, target, changes):
    with open(source) as file:
        config = json.load(file)
    config.update(changes)
    with open(target, "w") as file:
        json.dump(config, file, indent=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="new folder")
    parser.add_argument("--blocks", type=int, default=8, help="of the transformer, 60 as published (default: 8)")
    parser.add_argument("--text-layers", type=int, default=4, help="of the text encoder, 28 as published (default: 4)")
    parser.add_argument("--vision-layers", type=int, default=0, help="of the vision tower, 32 as published (default: 0)")
    parser.add_argument("--sparse", action="store_true", help="zeros, which take no room")
    parser.add_argument("--torch", metavar="DEVICE", help="cuda or cpu: every number drawn by itself, by torch")
    options = parser.parse_args()
    if options.sparse and options.torch:
        parser.error("--sparse has no numbers to draw")
    os.makedirs(options.out)
    for part in ("vae", "tokenizer", "scheduler"):
        shutil.copytree(os.path.join(DEMO, part), os.path.join(options.out, part))
    shutil.copy(os.path.join(DEMO, "model_index.json"), options.out)
    numbers = None if options.sparse else TorchNumbers(options.torch) if options.torch else drawn_numbers()
    write_component(os.path.join(options.out, "transformer"), "diffusion_pytorch_model",
                    transformer_tensors(options.blocks), numbers)
    write_component(os.path.join(options.out, "text_encoder"), "model",
                    text_tensors(options.text_layers, options.vision_layers), numbers)
    write_config(os.path.join(DEMO, "transformer", "config.json"), os.path.join(options.out, "transformer", "config.json"),
                 {"num_layers": options.blocks, "num_attention_heads": HEADS, "attention_head_dim": DIM // HEADS,
                  "axes_dims_rope": [16, 56, 56], "joint_attention_dim": JOINT})
    write_config(os.path.join(DEMO, "text_encoder", "config.json"), os.path.join(options.out, "text_encoder", "config.json"),
                 {"hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": options.text_layers,
                  "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": VOCABULARY,
                  "tie_word_embeddings": False, "text_config": None,
                  "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"}})


if __name__ == "__main__":
    main()
