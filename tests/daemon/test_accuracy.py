#!/usr/bin/python3
"""Accuracy of the tiny pair through the daemon is PyTorch's, with the stored weights and with q8, thinking, not, and within a budget.

Everything between a question and its answer is in this figure: template, tokens, weights, budget, drafts, text.  GATE_SCALE divides the
problems; fewer problems are held to a looser limit, as PyTorch's figures are of all 120.  Usage and environment: see wire_harness.py."""
import os
import sys

from wire_harness import ROOT, TARGET, Daemon, Skip, check, equal, main, pb, test

sys.path.insert(0, str(ROOT / "tests/bench"))
import accuracy  # noqa: E402

SCALE = int(os.environ.get("GATE_SCALE", 1))
ALL = 120
N = max(20, ALL // SCALE)
POINTS = accuracy.POINTS if N == ALL else 20
MODES = "on", "off", "16"


def check_accuracy(quant):
    draft = TARGET.parent / "draft"
    if not (draft / "model.safetensors").exists():
        raise Skip("the tiny draft has no weights")
    want = accuracy.reference(ALL)
    with Daemon("--draft", draft, "--target-quant", quant, "--log-level", "info") as d:
        stub = d.stub()
        if stub.GetModel(pb.GetModelRequest()).device == "fake":
            raise Skip("the daemon runs a fake engine")
        for mode in MODES:
            m = accuracy.measure(stub, accuracy.problems(N), mode, 8)
            got = 100 * m["right"] / N
            print(f"  {quant}, {mode}: {got:.1f}% right, PyTorch {want[mode]:.1f}%; {m['reasoning_tokens_mean']:.1f} tokens of thinking, {m['cut']} cut")
            check(abs(got - want[mode]) <= POINTS, f"{quant}, {mode}: {got:.1f}% right, PyTorch {want[mode]:.1f}%")
            check(not accuracy.over_budget(m), f"{quant}, {mode}: {m['reasoning_tokens_max']} tokens of thinking")
            equal(m["reasoning_tokens_max"] > 0, mode != "off", f"{quant}, {mode}: thinks")


@test()
def accuracy_of_the_stored_weights():
    check_accuracy("bf16")


@test()
def accuracy_of_q8():
    check_accuracy("q8")


main(fake=False)
