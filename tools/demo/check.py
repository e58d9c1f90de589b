#!/usr/bin/env python3
"""Score pictures of the demo model: right background, colour, shape, size, count, relation and letters.

    check.py --inkstone build/inkstone            draw 300 held-out prompts with the binary and score them
    check.py --diffusers                          the same through diffusers on the CPU (float32)
    check.py --truth                              score the reference renderings (the scorer's own accuracy)
    check.py --truth --shuffle                    score them against other prompts (should be low)

Needs NumPy and Pillow only (--diffusers: torch, diffusers, transformers).  The scores come from the pixels
alone: the background is the named colour nearest to the border; objects are connected regions of other
pixels; a region's colour is the named colour nearest to most of its pixels; its shape is the one of nine
whose rendering at the region's place and area overlaps it best; letters are column runs, each compared with
all 26 letters.  A picture is right in colour (shape) if every expected object is there in its colour (shape)
and no region shows another one; the number of objects is a verdict of its own, which size includes.  Letters
are counted singly (by edit distance) and as whole words.  "all" is everything at once.
"""
import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import scenes  # noqa: E402

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
PALETTE = scenes.PALETTE
MIN_AREA = 25       # smaller specks are not objects
MIN_OVERLAP = 0.65  # intersection over union below which a region is no shape or letter at all


# ---------------------------------------------------------------------------------------- regions

def masks(kinds, x, y, radius):
    """Rendered sprites as boolean pictures: kinds, x, y, radius are equally long lists."""
    rows = np.zeros((len(kinds), 1, 5), np.float32)
    rows[:, 0] = [(k, 10, cx, cy, r) for k, cx, cy, r in zip(kinds, x, y, radius)]
    black = np.full(len(kinds), 9)
    return scenes.render(np, scenes.TABLE, PALETTE, black, rows)[..., 0] > 131


def _unit_shapes():
    """Area and centroid of each shape at radius 1."""
    n = len(scenes.SHAPES)
    out = []
    for mask in masks(range(n), [64] * n, [64] * n, [50] * n):
        y, x = np.nonzero(mask)
        out.append((len(x) / 2500, (x.mean() + .5 - 64) / 50, (y.mean() + .5 - 64) / 50))
    return np.array(out)


UNIT = _unit_shapes()


def overlap(a, b):
    return (a & b).sum((-1, -2)) / np.maximum((a | b).sum((-1, -2)), 1)


def label(mask):
    """Connected regions (eight neighbours) as a list of boolean pictures, largest first."""
    ids = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        wide = np.pad(ids, 1)
        best = ids
        for dy, dx in itertools.product(range(3), range(3)):
            best = np.maximum(best, wide[dy:dy + ids.shape[0], dx:dx + ids.shape[1]])
        best = np.where(mask, best, 0)
        if (best == ids).all():
            break
        ids = best
    names, areas = np.unique(ids[mask], return_counts=True)
    return [ids == names[i] for i in np.argsort(-areas) if areas[i] >= MIN_AREA]


def nearest(pixels):
    return np.argmin(((pixels[..., None, :] - PALETTE) ** 2).sum(-1), -1)


class Region:
    """A connected region: sharpened mask, colour name, centroid."""

    def __init__(self, mask, image, background):
        names = nearest(image[mask])
        away = np.linalg.norm(PALETTE[names] - background, axis=1) > 40
        counts = np.bincount(names[away] if away.any() else names, minlength=len(PALETTE))
        index = int(counts.argmax())
        self.color = scenes.COLOR_NAMES[index]
        own = np.median(image[mask][names == index], axis=0)
        self.mask = mask & (((image - own) ** 2).sum(-1) < ((image - background) ** 2).sum(-1))
        if not self.mask.any():
            self.mask = mask
        y, x = np.nonzero(self.mask)
        self.x, self.y, self.area = x.mean() + .5, y.mean() + .5, len(x)
        self.overlaps = None

    def shapes(self):
        """Overlap with each shape, fitted by area and centroid."""
        if self.overlaps is None:
            radius = np.sqrt(self.area / UNIT[:, 0])
            fits = masks(range(len(UNIT)), self.x - UNIT[:, 1] * radius, self.y - UNIT[:, 2] * radius, radius)
            self.overlaps = overlap(fits, self.mask)
        return self.overlaps

    def shape(self):
        best = int(self.shapes().argmax())
        return scenes.SHAPES[best] if self.shapes()[best] >= MIN_OVERLAP else None

    def size(self):
        radius = float(np.sqrt(self.area / UNIT[int(self.shapes().argmax()), 0]))
        return "small" if radius < 14.2 else "large" if radius > 23 else ""


def regions(mask, image, background):
    return [Region(m, image, background) for m in label(mask)]


def read_letters(mask):
    """Text in a boolean picture that holds one line of capital letters."""
    y = np.nonzero(mask.any(1))[0]
    if not len(y):
        return ""
    half, middle = (y[-1] - y[0] + 1) / 2, (y[0] + y[-1] + 1) / 2
    columns = np.nonzero(mask.any(0))[0]
    text = ""
    for run in np.split(columns, np.nonzero(np.diff(columns) > 1)[0] + 1):
        one = np.zeros_like(mask)
        one[:, run[0]:run[-1] + 1] = mask[:, run[0]:run[-1] + 1]
        if one.sum() < MIN_AREA:
            continue
        tries = [(len(scenes.SHAPES) + k, (run[0] + run[-1] + 1) / 2 + dx, middle, half)
                 for k in range(26) for dx in (-.5, .5)]
        scores = overlap(masks(*zip(*tries)), one)
        text += scenes.LETTERS[int(scores.argmax()) // 2] if scores.max() >= MIN_OVERLAP - .1 else "?"
    return text


def edit_distance(a, b):
    row = list(range(len(b) + 1))
    for i, ca in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, cb in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (ca != cb))
    return row[-1]


def right_letters(word, text):
    return max(0, len(word) - edit_distance(word, text))


# ----------------------------------------------------------------------------------------- scoring

def score_objects(result, scene, found):
    """Match regions with the expected objects (best colour and shape first), then judge."""
    want, relation = scene.objects, scene.relation if scene.kind == "pair" else None
    colors, shapes = {w[1] for w in want}, {w[0] for w in want}
    result["count"] = exact = len(found) == len(want)
    if scene.kind != "pair":
        want = want[:1]
    best, chosen = -1.0, []
    for order in itertools.permutations(found[:6], min(len(want), len(found))):
        fit = sum((r.color == w[1]) + r.shapes()[scenes.SHAPES.index(w[0])] for r, w in zip(order, want))
        if fit > best:
            best, chosen = fit, order
    there = len(chosen) == len(want)
    result["color"] = (there and all(r.color == w[1] for r, w in zip(chosen, want))
                       and all(r.color in colors for r in found))
    result["shape"] = (there and all(r.shape() == w[0] for r, w in zip(chosen, want))
                       and all(r.shape() in shapes for r in found))
    if scene.kind in ("single", "pair"):
        result["size"] = exact and all(r.size() == s for r, s in zip(chosen, scene.sizes))
    if relation:
        known = len(chosen) == 2 and all(r.color == w[1] or r.shape() == w[0] for r, w in zip(chosen, want))
        if known:
            dx, dy = chosen[1].x - chosen[0].x, chosen[1].y - chosen[0].y
            if relation in ("left of", "right of"):
                known = abs(dx) > abs(dy) and (dx > 0) == (relation == "left of")
            else:
                known = abs(dy) > abs(dx) and (dy > 0) == (relation == "above")
        result["relation"] = bool(known)


def score(image, scene):
    """Dictionary of verdicts for one uint8 picture."""
    result = judge(image, scene)
    result["all"] = all(v for v in result.values() if isinstance(v, bool))
    return result


def judge(image, scene):
    image = image.astype(np.float32)
    ring = np.ones(image.shape[:2], bool)
    ring[3:-3, 3:-3] = False
    border = image[ring]
    names = np.bincount(nearest(border), minlength=len(PALETTE))
    background = np.median(border[nearest(border) == names.argmax()], axis=0)
    result = {"background": bool(names.max() >= 0.9 * names.sum()
                                 and scenes.COLOR_NAMES[int(names.argmax())] == scene.background)}
    mask = np.linalg.norm(image - background, axis=-1) > 40
    if scene.kind not in ("word", "label"):
        score_objects(result, scene, regions(mask, image, background))
        return result
    if scene.kind == "word":
        found = regions(mask, image, background)
        text = read_letters(np.any([r.mask for r in found], axis=0)) if found else ""
        result["color"] = bool(found) and all(r.color == scene.ink for r in found)
    else:
        # one band of rows holds the shape, the other the word: split at the widest empty gap, take the better reading
        rows = np.nonzero(mask.sum(1) > 1)[0]
        cut = int(rows[np.diff(rows).argmax()]) + 1 if len(rows) > 1 else 64
        best, text = -1.0, ""
        shape, color = scene.objects[0][:2]
        for place, part, rest in (("above", slice(0, cut), slice(cut, None)), ("below", slice(cut, None), slice(0, cut))):
            upper, lower = np.zeros_like(mask), np.zeros_like(mask)
            upper[part], lower[rest] = mask[part], mask[rest]
            objects, letters = regions(upper, image, background), regions(lower, image, background)
            read = read_letters(np.any([r.mask for r in letters], axis=0)) if letters else ""
            one = len(objects) == 1
            fit = (objects[0].shapes()[scenes.SHAPES.index(shape)] if one else 0) + right_letters(scene.word, read) / len(scene.word)
            if fit > best:
                best, text = fit, read
                result["shape"] = one and objects[0].shape() == shape
                result["color"] = bool(one and objects[0].color == color and letters
                                       and all(r.color == scene.ink for r in letters))
                result["relation"] = bool(place == scene.relation and (result["shape"] or fit > 1))
    result["letters"] = (right_letters(scene.word, text), len(scene.word))
    result["word"] = text == scene.word
    result["text"] = text
    return result


def summary(results):
    """{name: (right, of)} over all pictures that ask for it."""
    table = {}
    for name in ("background", "color", "shape", "size", "count", "relation", "letters", "word", "all"):
        rows = [r[name] for r in results if name in r]
        if name == "letters":
            table[name] = (sum(a for a, _ in rows), sum(b for _, b in rows))
        else:
            table[name] = (sum(map(bool, rows)), len(rows))
    return table


def evaluate(pictures, wanted):
    return summary([score(p, s) for p, s in zip(pictures, wanted)])


# ----------------------------------------------------------------------------------------- drawing

def settings(args):
    with open(os.path.join(args.model, "inkstone.json"), encoding="utf-8") as f:
        values = json.load(f)
    for name in ("steps", "guidance"):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
    return values


def draw_inkstone(args, prompts, folder):
    values = settings(args)
    for i, prompt in enumerate(prompts):
        path = os.path.join(folder, f"{i:03d}.png")
        subprocess.run([args.inkstone, "-m", args.model, "-p", prompt, "-n", values["negative_prompt"], "-o", path,
                        "-W", str(values["width"]), "-H", str(values["height"]), "-s", str(values["steps"]),
                        "-g", str(values["guidance"]), "-S", str(args.seed + i), "-q", "--noise-dtype", "f32",
                        "--precision", args.precision], check=True)  # the same noise in every precision
        yield np.asarray(Image.open(path).convert("RGB"))


def draw_diffusers(args, prompts, folder):
    import torch
    from diffusers import QwenImagePipeline
    values = settings(args)
    dtype = torch.float32 if args.precision == "f32" else torch.bfloat16
    pipe = QwenImagePipeline.from_pretrained(args.model, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    for i, prompt in enumerate(prompts):
        image = pipe(prompt, negative_prompt=values["negative_prompt"], width=values["width"],
                     height=values["height"], num_inference_steps=values["steps"],
                     true_cfg_scale=values["guidance"], generator=torch.Generator().manual_seed(args.seed + i)).images[0]
        image.save(os.path.join(folder, f"{i:03d}.png"))
        yield np.asarray(image.convert("RGB"))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=os.path.join(ROOT, "models", "demo"))
    p.add_argument("--inkstone", default=os.path.join(ROOT, "build", "inkstone"), help="the binary")
    p.add_argument("--diffusers", action="store_true", help="draw through diffusers instead")
    p.add_argument("--truth", action="store_true", help="score reference renderings instead of the model")
    p.add_argument("--shuffle", action="store_true", help="score each picture against another prompt")
    p.add_argument("--count", type=int, default=300)
    p.add_argument("--seed", type=int, default=1, help="picture i uses seed + i")
    p.add_argument("--steps", type=int)
    p.add_argument("--guidance", type=float)
    p.add_argument("--precision", choices=("f32", "bf16", "fp8", "q8", "q4", "int8"), default="f32")
    p.add_argument("--out", help="keep the pictures in this folder")
    p.add_argument("--verbose", action="store_true", help="print every picture that is not all right")
    args = p.parse_args()
    if args.diffusers and args.precision not in ("f32", "bf16"):
        p.error("diffusers draws in f32 or bf16")

    wanted = scenes.evaluation(args.count)
    prompts = [s.caption for s in wanted]
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.out or scratch
        os.makedirs(folder, exist_ok=True)
        pictures = (scenes.draw(wanted) if args.truth else
                    (draw_diffusers if args.diffusers else draw_inkstone)(args, prompts, folder))
        pictures = list(pictures)
    if args.shuffle:
        random.Random(1).shuffle(wanted)
    results = [score(a, b) for a, b in zip(pictures, wanted)]
    if args.verbose:
        for i, (scene, r) in enumerate(zip(wanted, results)):
            wrong = [k for k, v in r.items() if v is False]
            if wrong:
                print(f"{i:03d} {scene.caption}: {' '.join(wrong)}" + (f" ({r['text']})" if "text" in r else ""))
    print(f"{len(results)} pictures")
    for name, (right, of) in summary(results).items():
        print(f"{name:<11}{right:4d} of {of:4d}  {100 * right / max(of, 1):6.2f} %")


if __name__ == "__main__":
    main()
