#!/usr/bin/env python3
"""Trains the byte-level BPE of the tiny pair, and reads it back.

    bpe.py TOKENIZER_JSON          writes a Hugging Face tokenizer.json and, beside it, tokenizer_config.json
                                   (needs chat_template.jinja of a Qwen3 checkpoint: --template FILE)

Everything but the vocabulary is Qwen3's: NFC, the splitting pattern, bytes as characters, and the added tokens by name.
Needs the `regex` module (Debian: python3-regex).
"""
import argparse
import collections
import json
import pathlib
import random

import regex

import corpus

PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # left out of decoded text
NOT_SPECIAL = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]  # added, yet text
ADDED = SPECIAL + NOT_SPECIAL
DOCUMENTS, SEED = 60000, 0
MERGES_MAX = 640
PAIR_MIN = 50  # a pair seen less often is no word of this corpus


def byte_characters():
    """GPT-2's table: printable Latin-1 bytes stand for themselves, the other 68 for the characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


BYTE_CHARACTER = byte_characters()
SPLIT_ADDED = regex.compile("(" + "|".join(map(regex.escape, ADDED)) + ")")
SPLIT_WORDS = regex.compile(PATTERN)


def characters(word):
    return [BYTE_CHARACTER[b] for b in word.encode()]


# --- training ---

def count_words():
    rng, words = random.Random(SEED), collections.Counter()
    for _ in range(DOCUMENTS):
        text = "".join(piece for piece, _ in corpus.document(rng, corpus.sample(rng)))
        for part in SPLIT_ADDED.split(text):
            if part not in ADDED:
                words.update(SPLIT_WORDS.findall(part))
    return words


def join(symbols, pair):
    """symbols with every occurrence of pair made one, from the left."""
    out, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i:i + 2]) == pair:
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


def learn_merges(words):
    """The most frequent pair becomes a symbol, again and again; of equals the greater in order, so that a corpus names its merges."""
    spelled, merges = [(characters(word), n) for word, n in words.items()], []
    while len(merges) < MERGES_MAX:
        pairs = collections.Counter()
        for symbols, n in spelled:
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += n
        if not pairs:
            break
        pair = max(pairs, key=lambda p: (pairs[p], p))
        if pairs[pair] < PAIR_MIN:
            break
        merges.append(pair)
        spelled = [(join(symbols, pair), n) for symbols, n in spelled]
    return merges


# --- files ---

def added_entry(token):
    return {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": token in SPECIAL}


def tokenizer_json(merges):
    vocabulary = {c: i for i, c in enumerate(sorted(BYTE_CHARACTER.values()))}
    for a, b in merges:
        vocabulary.setdefault(a + b, len(vocabulary))
    first = len(vocabulary)
    bytes_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": first + i, "content": t, **added_entry(t)} for i, t in enumerate(ADDED)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}, bytes_level]},
        "post_processor": bytes_level, "decoder": bytes_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocabulary,
                  "merges": [f"{a} {b}" for a, b in merges]},
    }


def tokenizer_config(tokenizer, template):
    entry = lambda a: {k: a[k] for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
    return {
        "add_bos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {str(a["id"]): entry(a) for a in tokenizer["added_tokens"]},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None, "chat_template": template,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 2048,
        "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }


class Tokenizer:
    """Just enough to train and evaluate with: added tokens cut out first, then the lowest-ranked merge while there is one."""

    def __init__(self, path):
        read = json.loads(pathlib.Path(path).read_text())
        self.added = {a["content"]: a["id"] for a in read["added_tokens"]}
        self.vocabulary = read["model"]["vocab"]
        self.rank = {tuple(m.split(" ")): i for i, m in enumerate(read["model"]["merges"])}
        self.count = len(self.vocabulary) + len(self.added)
        byte_of = {c: b for b, c in BYTE_CHARACTER.items()}
        self.bytes = {i: bytes(byte_of[c] for c in s) for s, i in self.vocabulary.items()}
        self.bytes.update((i, s.encode()) for s, i in self.added.items())
        self.known = {}  # word -> ids

    def word(self, word):
        if word not in self.known:
            symbols = characters(word)
            while pairs := [p for p in zip(symbols, symbols[1:]) if p in self.rank]:
                symbols = self.merge_first(symbols, min(pairs, key=self.rank.get))
            self.known[word] = [self.vocabulary[s] for s in symbols]
        return self.known[word]

    @staticmethod
    def merge_first(symbols, pair):
        i = next(i for i in range(len(symbols)) if tuple(symbols[i:i + 2]) == pair)
        return symbols[:i] + [pair[0] + pair[1]] + symbols[i + 2:]

    def encode(self, text):
        ids = []
        for part in SPLIT_ADDED.split(text):
            if part in self.added:
                ids.append(self.added[part])
            else:
                for word in SPLIT_WORDS.findall(part):
                    ids += self.word(word)
        return ids

    def decode(self, ids):
        return b"".join(self.bytes[i] for i in ids).decode(errors="replace")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("--template", type=pathlib.Path, help="chat_template.jinja; without it only tokenizer.json is written")
    a = arguments.parse_args()
    tokenizer = tokenizer_json(learn_merges(count_words()))
    a.out.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1))
    if a.template:
        config = tokenizer_config(tokenizer, a.template.read_text())
        a.out.with_name("tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2))
    print(len(tokenizer["model"]["merges"]), "merges,", len(tokenizer["model"]["vocab"]) + len(ADDED), "tokens")


if __name__ == "__main__":
    main()
