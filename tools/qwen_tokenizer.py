#!/usr/bin/env python3
"""Build small Qwen2-style tokenizer folders (byte-level BPE) from a list of words.

    import qwen_tokenizer
    ids = qwen_tokenizer.build("model/tokenizer", ["red", "circle", "on"])

writes vocab.json, merges.txt, added_tokens.json, special_tokens_map.json and tokenizer_config.json in the
layout of the Qwen-Image tokenizer.  Every listed word becomes one token, with and without a leading space,
and so does every word of the text-to-image prompt template, whose part before the prompt is therefore
exactly 34 tokens, as with the published vocabulary (pipelines drop a fixed number of 34 rows).  All other
text falls back to shorter pieces and in the end to single bytes.  Two capital letters never merge unless a
listed word holds them side by side.

Base vocabulary: the 256 byte symbols, then one symbol a merge; the 22 added tokens of Qwen2.5-VL follow.
Everything is deterministic.  `Encoder(folder).encode(text)` gives the ids of ASCII text without added
tokens (all that training captions need).  Command line: qwen_tokenizer.py FOLDER WORD...
"""
import json
import os
import re
import sys
from collections import Counter

ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
         "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
         "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>",
         "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
         "<|repo_name|>", "<|file_sep|>"]
SPECIAL = ADDED[1:14]  # listed as additional special tokens; <|endoftext|> is special as the pad token
TEMPLATE_PREFIX = ("<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
                   "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
                   "<|im_start|>user\n")
TEMPLATE_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
DROP = 34  # tokens of TEMPLATE_PREFIX
TEMPLATE_WORDS = ["system", "Describe", " the", " image", " by", " detailing", " color", " shape", " size",
                  " texture", " quantity", " text", " spatial", " relationships", " of", " objects",
                  " and", " background", "user", "assistant"]


def byte_symbols():
    """The 256 printable symbols that stand for the bytes 0..255."""
    plain = set(range(33, 127)) | set(range(161, 173)) | set(range(174, 256))
    table, extra = [], 0
    for b in range(256):
        if b in plain:
            table.append(chr(b))
        else:
            table.append(chr(256 + extra))
            extra += 1
    return table


def learn_merges(words):
    """Merges that turn each of `words` (pre-tokens, as text) into a single symbol: plain BPE training on
    the distinct words, most frequent pair first, until nothing is left to merge."""
    table = byte_symbols()
    split = [[table[b] for b in w.encode("utf-8")] for w in sorted(set(words))]
    merges = []
    while True:
        pairs = Counter(p for s in split for p in zip(s, s[1:]))
        if not pairs:
            return merges
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for s in split:
            i = 0
            while i + 1 < len(s):
                if (s[i], s[i + 1]) == best:
                    s[i:i + 2] = [s[i] + s[i + 1]]
                i += 1


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=2)
        f.write("\n")


def build(folder, words):
    """Write a tokenizer into `folder`; returns the added tokens' ids plus "vocab_size" (all ids count)."""
    pieces = TEMPLATE_WORDS + [w.strip() for w in words] + [" " + w.strip() for w in words]
    merges = learn_merges(pieces)
    symbols = dict.fromkeys(byte_symbols() + [a + b for a, b in merges])
    vocab = {s: i for i, s in enumerate(symbols)}
    added = {t: len(vocab) + i for i, t in enumerate(ADDED)}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}

    os.makedirs(folder, exist_ok=True)
    write_json(os.path.join(folder, "vocab.json"), vocab)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8", newline="\n") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    write_json(os.path.join(folder, "added_tokens.json"), added)
    write_json(os.path.join(folder, "special_tokens_map.json"), {
        "additional_special_tokens": SPECIAL,
        "eos_token": {"content": "<|im_end|>", **flags},
        "pad_token": {"content": "<|endoftext|>", **flags}})
    write_json(os.path.join(folder, "tokenizer_config.json"), {
        "add_bos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {str(added[t]): {"content": t, **flags, "special": i < 14}
                                 for i, t in enumerate(ADDED)},
        "additional_special_tokens": SPECIAL, "bos_token": None, "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "errors": "replace", "extra_special_tokens": {},
        "model_max_length": 131072, "pad_token": "<|endoftext|>", "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer", "unk_token": None})
    return {**added, "vocab_size": len(vocab) + len(added)}


class Encoder:
    """Ids of ASCII text; pre-tokens are cached, so that millions of captions encode quickly."""

    SPLIT = re.compile(r"""'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\na-zA-Z0-9]?[a-zA-Z]+|[0-9]|"""
                       r""" ?[^\sa-zA-Z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")

    def __init__(self, folder):
        with open(os.path.join(folder, "vocab.json"), encoding="utf-8") as f:
            self.vocab = json.load(f)
        with open(os.path.join(folder, "merges.txt"), encoding="utf-8") as f:
            self.rank = {tuple(line.split()): i for i, line in enumerate(f.read().splitlines()[1:])}
        with open(os.path.join(folder, "added_tokens.json"), encoding="utf-8") as f:
            self.added = json.load(f)
        self.table, self.cache = byte_symbols(), {}

    def _piece(self, piece):
        s = [self.table[b] for b in piece.encode("ascii")]
        while len(s) > 1:
            best = min(zip(s, s[1:]), key=lambda p: self.rank.get(p, 1 << 30))
            if best not in self.rank:
                break
            i = 0
            while i + 1 < len(s):
                if (s[i], s[i + 1]) == best:
                    s[i:i + 2] = [s[i] + s[i + 1]]
                i += 1
        return [self.vocab[x] for x in s]

    def encode(self, text):
        ids = []
        for piece in self.SPLIT.findall(text):
            if piece not in self.cache:
                self.cache[piece] = self._piece(piece)
            ids += self.cache[piece]
        return ids

    def template(self, text):
        """Ids of a template, which may hold added tokens."""
        ids = []
        for part in re.split("(" + "|".join(map(re.escape, ADDED)) + ")", text):
            ids += [self.added[part]] if part in self.added else self.encode(part)
        return ids


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(build(sys.argv[1], sys.argv[2:])["vocab_size"], "tokens")
