#!/usr/bin/python3
"""The law of the first token: 20,000 of them through the daemon, one a seed, against the target's own distribution.

The distribution is computed here, in double, from the logits that `outrider logits` gives for the same weights and KV type, after the
cuts of NUMERICS.md.  Chi-square over the tokens expected five times or more, the others in one cell together; a token the cuts leave
out must not come at all.  GATE_SCALE divides the count.  Usage and environment: see wire_harness.py."""
import array
import collections
import concurrent.futures
import json
import math
import os
import pathlib
import subprocess
import tempfile

from wire_harness import BUILD, TARGET, Daemon, Skip, check, equal, main, pb, test

SCALE = int(os.environ.get("GATE_SCALE", 1))
TOKENS = 20000 // SCALE
AT_ONCE = 8
OUTRIDER = os.environ.get("OUTRIDER", f"{BUILD}/outrider")
# A user's words were not learnt, so the target is unsure of them: many tokens are likely.
PROMPT = "<|im_start|>user\nWhat is the"


def logits_of(ids, vocab, *flags):
    """The target's logits after ids, of the ids in use."""
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([OUTRIDER, "logits", "--model", TARGET, "--jsonl", "--raw", f"{d}/rows", *flags], input=json.dumps({"ids": ids}) + "\n",
                       text=True, check=True, stdout=subprocess.DEVNULL)
        rows = array.array("f", pathlib.Path(d, "rows").read_bytes())
    width = len(rows) // len(ids)
    return rows[(len(ids) - 1) * width:][:vocab]


def law(logits, temperature=1, top_k=0, top_p=1, min_p=0):
    """[probability of each id] after temperature and cuts."""
    value = [x / temperature for x in logits]
    order = sorted(range(len(value)), key=lambda v: (-value[v], v))[:top_k or None]
    weight = {v: math.exp(value[v] - value[order[0]]) for v in order}
    total, left, n = sum(weight.values()), 0.0, 0
    while n < len(order) and left < top_p * total:
        left += weight[order[n]]
        n += 1
    kept = [v for i, v in enumerate(order[:n]) if i == 0 or weight[v] >= min_p]
    total = sum(weight[v] for v in kept)
    return {v: weight[v] / total for v in kept}


def chi_square(count, p, n):
    """-> (chi-square, cells)"""
    cells, rest_want, rest_got = [], n * (1 - sum(q for q in p.values() if n * q >= 5)), n
    for v, q in p.items():
        if n * q >= 5:
            cells.append((count[v], n * q))
            rest_got -= count[v]
    if rest_want >= 5:
        cells.append((rest_got, rest_want))
    return sum((got - want) ** 2 / want for got, want in cells), len(cells)


def first_tokens(stub, seeds, **sampling):
    def one(seed):
        r = pb.GenerateRequest(text=PROMPT, sampling=pb.Sampling(seed=seed, **sampling), stopping=pb.Stopping(max_tokens=1, ignore_eos=True))
        ids = [i for event in stub.Generate(r, timeout=300) for i in event.delta.token_ids]
        equal(len(ids), 1, f"tokens of seed {seed}")
        return ids[0]

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return collections.Counter(pool.map(one, seeds))


def check_law(n, quant, **sampling):
    with Daemon("--target-quant", quant, "--kv", "bf16", "--log-level", "info", "--threads", 1) as d:
        stub = d.stub()
        model = stub.GetModel(pb.GetModelRequest())
        if model.device == "fake":
            raise Skip("the daemon runs a fake engine")
        begin = next(stub.Generate(pb.GenerateRequest(text=PROMPT, stopping=pb.Stopping(max_tokens=1)))).begin
        count = first_tokens(stub, range(1, n + 1), **sampling)
    ids = json.loads(subprocess.run([OUTRIDER, "tokenize", "--model", TARGET, "--jsonl", "--allow-special"], input=json.dumps({"text": PROMPT}) + "\n", text=True, check=True,
                                    stdout=subprocess.PIPE).stdout)["ids"]
    equal(len(ids), begin.prompt_tokens, "tokens of the prompt")
    p = law(logits_of(ids, model.vocab, "--quant", quant, "--kv", "bf16"), **sampling)
    equal(set(count) - set(p), set(), "tokens the cuts leave out")
    chi, cells = chi_square(count, p, n)
    df = cells - 1
    limit = df + 5 * math.sqrt(2 * df) + 10  # passed by chance about once in a million
    print(f"  {quant}, {sampling}: {n} tokens, chi-square {chi:.1f} over {cells} cells of {len(p)} tokens (limit {limit:.1f})")
    check(cells >= 5, f"{cells} cells: the law is too narrow to tell anything")
    check(chi < limit, f"chi-square {chi:.1f} over {cells} cells, limit {limit:.1f}")
    return count, p


@test()
def first_token_drawn_plainly():
    check_law(TOKENS, "bf16", temperature=1, top_k=0, top_p=1, min_p=0)


@test()
def first_token_within_cuts():
    check_law(TOKENS // 4, "bf16", temperature=1.2, top_k=20, top_p=0.95, min_p=0)
    check_law(TOKENS // 4, "q8", temperature=1.3, top_k=0, top_p=0.8, min_p=0.02)


@test()
def the_test_sees_another_law():
    """The check can fail: counts of another temperature, exact ones at that, are refused."""
    logits = [math.sin(v) * 2 for v in range(40)]
    n, p = 20000, law(logits, temperature=1.1)
    count = collections.Counter({v: round(n * q) for v, q in p.items()})
    chi, cells = chi_square(count, law(logits), n)
    check(chi > cells - 1 + 5 * math.sqrt(2 * (cells - 1)) + 10, f"chi-square {chi:.1f} over {cells} cells")
    check(chi_square(count, p, n)[0] < 5, "its own law is refused")


main(fake=False)
