#!/usr/bin/python3
"""assets/tiny: the pair is whole, and its recipe still makes the corpus it was trained on.  Usage: see client_harness.py."""
import hashlib
import importlib.util
import json
import os
import pathlib
import random
import sys

from client_harness import ROOT, Skip, eq, run_tests

TINY = ROOT / "assets/tiny"
SHARED = pathlib.Path(os.environ.get("OUTRIDER_SHARED", ROOT.parent / "shared"))
BYTES_MAX = 12 << 20  # what a clone may carry for it
# Of 2000 problems and documents of seed 777; another value is another corpus, and the shipped weights were not trained on it.
CORPUS_HASH = "8c24c32d799bd00bf3a08cd18b9a53b28e6b7c296ba6e586e45c13af8aa32b53"


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def samples(corpus, n, seed):
    rng = random.Random(seed)
    for _ in range(n):
        problem = corpus.sample(rng)
        yield (problem.question, problem.thinking, problem.answer), corpus.document(rng, problem)


def test_corpus_is_the_one_trained_on(_):
    corpus = load("corpus", TINY / "train/corpus.py")
    text = json.dumps(list(samples(corpus, 2000, 777)))
    eq(hashlib.sha256(text.encode()).hexdigest(), CORPUS_HASH)


def test_corpus_equals_the_original(_):
    if not (SHARED / "tiny/corpus.py").exists():
        raise Skip(f"{SHARED}/tiny/corpus.py is not there")
    corpus, original = load("corpus", TINY / "train/corpus.py"), load("original", SHARED / "tiny/corpus.py")
    for seed in 0, 777, 1000, 4242:
        rng = random.Random(seed)
        for problem, document in samples(corpus, 2000, seed):
            want = original.sample(rng)
            eq(problem, want)
            eq(document, original.render(rng, *want))


def test_answers_are_right(_):
    """Sums are computed again here, another way than in the corpus."""
    corpus = load("corpus", TINY / "train/corpus.py")
    rng, seen = random.Random(5), 0
    for _ in range(2000):
        problem = corpus.sample(rng)
        if problem.kind in ("add", "subtract", "multiply"):
            left, right = problem.answer.rstrip(".").split(" = ")
            eq(eval(left), int(right), problem.question)
            assert problem.thinking[-1].endswith(f"= {right}."), problem
            seen += 1
    assert seen > 500


def test_pair_is_whole(_):
    files = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    for name in "target", "draft":
        eq(sorted(p.name for p in (TINY / name).iterdir()), files)
        config = json.loads((TINY / name / "config.json").read_text())
        tokenizer = json.loads((TINY / name / "tokenizer.json").read_text())
        eq(config["vocab_size"], len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"]))
    for name in "tokenizer.json", "tokenizer_config.json":
        eq((TINY / "target" / name).read_bytes(), (TINY / "draft" / name).read_bytes(), name)
    size = sum(p.stat().st_size for p in TINY.rglob("*") if p.is_file())
    assert size <= BYTES_MAX, f"{size} bytes"


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
