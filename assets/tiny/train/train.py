#!/usr/bin/env python3
"""Trains one model of the tiny pair and exports it as a Hugging Face directory.

    train.py target OUT 85         85 minutes; the pair that is shipped took 85 and 14 on two CPU cores
    train.py draft OUT 14

OUT must hold tokenizer.json (bpe.py).  A checkpoint, OUT/train.pt, is kept every five minutes; --resume goes on from it.
The schedule follows the clock, so another machine gives another, no worse or better, model: weights are shipped, not a seed.
Needs PyTorch 1.13 or newer (Debian: python3-torch) and the `regex` module.
"""
import argparse
import itertools
import pathlib
import random
import time

import torch
from torch.nn import functional as F

import bpe
import corpus
import qwen3

CONTEXT = 256         # tokens of a training row
WARMUP = 60           # steps
FLOOR = 0.03          # of the learning rate, at the end
RATE = {"target": 1.5e-3, "draft": 3e-3}
WEIGHT_DECAY = 0.05
CLIP = 1.0            # norm of the gradient
REPORT_STEPS, CHECKPOINT_SECONDS = 50, 300
NOT_LEARNED = -100    # cross_entropy's ignore_index


def documents(tokenizer, rng):
    """Token ids and whether each is to be learned, without end."""
    while True:
        for text, learn in corpus.document(rng, corpus.sample(rng)):
            for i in tokenizer.encode(text):
                yield i, learn


def batches(tokenizer, rng, rows):
    """(rows, CONTEXT) of ids and of what follows each; every row starts with a whole document."""
    while True:
        inputs, wanted = [], []
        for _ in range(rows):
            row = list(itertools.islice(documents(tokenizer, rng), CONTEXT + 1))
            inputs.append([i for i, _ in row[:-1]])
            wanted.append([i if learn else NOT_LEARNED for i, learn in row[1:]])
        yield torch.tensor(inputs), torch.tensor(wanted)


def optimizer_of(model, rate):
    """AdamW; gains of norms are not decayed."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() < 2]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": gains, "weight_decay": 0.0}], lr=rate, betas=(0.9, 0.98))


class Run:
    """One training run: model, optimizer, and how far it is."""

    def __init__(self, name, out, seconds, device):
        self.out, self.seconds, self.rate, self.device = out, seconds, RATE[name], device
        self.tokenizer = bpe.Tokenizer(out / "tokenizer.json")
        self.model = qwen3.Qwen3(qwen3.configuration(name, self.tokenizer.count)).to(device)
        self.optimizer = optimizer_of(self.model, self.rate)
        self.step, self.spent, self.started = 0, 0.0, time.monotonic()

    def elapsed(self):
        return self.spent + time.monotonic() - self.started

    def save(self):
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step, "spent": self.elapsed()}, self.out / "train.pt")

    def resume(self):
        kept = torch.load(self.out / "train.pt", map_location=self.device)
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.step, self.spent, self.started = kept["step"], kept["spent"], time.monotonic()

    def set_rate(self):
        """Linear warm-up by steps, then linear decay by the clock."""
        done = min(1.0, self.elapsed() / self.seconds)
        rate = self.rate * min(1.0, (self.step + 1) / WARMUP) * (FLOOR + (1 - FLOOR) * (1 - done))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def learn(self, inputs, wanted):
        logits = self.model(inputs.to(self.device))
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.to(self.device).flatten(), ignore_index=NOT_LEARNED)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def train(self, rows):
        saved, losses = time.monotonic(), []
        data = batches(self.tokenizer, random.Random(1000 + self.step), rows)
        while self.elapsed() < self.seconds:
            rate = self.set_rate()
            losses.append(self.learn(*next(data)))
            if self.step % REPORT_STEPS == 0:
                print(f"step {self.step}, {self.elapsed() / 60:.1f} min, loss {sum(losses) / len(losses):.4f}, rate {rate:.2e}, "
                      f"{self.step * rows * CONTEXT / 1e6:.2f} M tokens", flush=True)
                losses = []
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                saved = time.monotonic()
                self.save()
        self.save()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("name", choices=sorted(qwen3.SHAPES))
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("minutes", type=float)
    arguments.add_argument("--resume", action="store_true")
    arguments.add_argument("--rows", type=int, default=16, help="rows of a batch")
    arguments.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    a = arguments.parse_args()
    torch.manual_seed(0)
    if a.threads:
        torch.set_num_threads(a.threads)
    run = Run(a.name, a.out, a.minutes * 60, "cuda" if torch.cuda.is_available() else "cpu")
    if a.resume:
        run.resume()
    print(f"{a.name}: {sum(p.numel() for p in run.model.parameters()) / 1e6:.2f} M parameters on {run.device}", flush=True)
    run.train(a.rows)
    qwen3.export(run.model, run.tokenizer, a.out)


if __name__ == "__main__":
    main()
