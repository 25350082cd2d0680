#!/usr/bin/env python3
"""Accuracy of an exported tiny model in PyTorch, greedy and in float32, by kind of problem: a second opinion on what
tests/bench/accuracy.py measures through the daemon.

    evaluate.py DIR [-n 120] [--modes on,off,16,48]      a number is a thinking budget in tokens
"""
import argparse
import collections
import pathlib
import random

import torch

import bpe
import corpus
import qwen3

SEED = 777
THINKING_MAX, ANSWER_MAX = 400, 60  # tokens


class Speaker:
    def __init__(self, directory):
        self.tokenizer = bpe.Tokenizer(pathlib.Path(directory) / "tokenizer.json")
        self.model = qwen3.load(directory)
        self.end, self.think_end = self.tokenizer.added["<|im_end|>"], self.tokenizer.added["</think>"]

    @torch.no_grad()
    def go_on(self, ids, until, limit):
        """What follows ids, the token that ended it included."""
        ids, start = list(ids), len(ids)
        while len(ids) - start < limit and (len(ids) == start or ids[-1] not in until):
            ids.append(int(self.model(torch.tensor([ids]))[0, -1].argmax()))
        return ids[start:]

    def answer(self, ids):
        said = self.go_on(ids, {self.end}, ANSWER_MAX)
        return self.tokenizer.decode(i for i in said if i != self.end)

    def ask(self, question, mode):
        """-> (answer, tokens of thinking).  mode: "on", "off" or a budget."""
        ids = self.tokenizer.encode(corpus.prompt(question, mode != "off"))
        if mode == "off":
            return self.answer(ids), 0
        limit = THINKING_MAX if mode == "on" else int(mode) + 1  # <think> is not counted
        thought = self.go_on(ids, {self.end, self.think_end}, limit)
        ids += thought
        if thought[-1] == self.end:
            return "", len(thought)
        if thought[-1] != self.think_end:
            ids += self.tokenizer.encode(f"\n\n{corpus.CLOSING}\n</think>\n\n")
        return self.answer(ids), len(thought)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("directory", type=pathlib.Path)
    arguments.add_argument("-n", type=int, default=120, help="problems")
    arguments.add_argument("--modes", default="on,off")
    a = arguments.parse_args()
    speaker = Speaker(a.directory)
    for mode in a.modes.split(","):
        rng, right, asked, thought = random.Random(SEED), collections.Counter(), collections.Counter(), 0
        for _ in range(a.n):
            problem = corpus.sample(rng)
            said, n = speaker.ask(problem.question, mode)
            asked[problem.kind] += 1
            right[problem.kind] += corpus.is_right(said, problem)
            thought += n
        by_kind = " ".join(f"{kind} {right[kind]}/{n}" for kind, n in sorted(asked.items()))
        print(f"{mode}: {sum(right.values()) / a.n:.3f} right, {thought / a.n:.0f} tokens of thinking; {by_kind}", flush=True)


if __name__ == "__main__":
    main()
