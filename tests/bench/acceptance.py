#!/usr/bin/python3
"""Tokens a target pass on the tiny pair, through a daemon it starts: by tree size, by --draft-top and by depth, greedy and drawn.

    acceptance.py [--build build/gcc] [-n 100] [--sizes 4,8,16,32,64] [--tops 2,3,4,8] [--depth 8] [--json FILE] [--at-least 6.0]

The prompts are those of corpus seed 4242, thinking on, each answered to its end.  Every row of the tables asks the same questions of a
fresh daemon (so that its confidence is learnt from nothing each time); the answers must be the same words in all rows of one sampling.
Exit status 1 if they are not, or if 32 nodes of depth 8 at temperature 0 give fewer than --at-least tokens a pass.
"""
import argparse
import concurrent.futures
import json
import pathlib
import random
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "assets/tiny/train"), str(ROOT / "tests/daemon")]
import corpus  # noqa: E402
import wire_harness as h  # noqa: E402
from stubs import pb  # noqa: E402

SEED, BAR_NODES, BAR_DEPTH = 4242, 32, 8
TOKENS_MAX = 600  # an answer's; the corpus' longest has under 400
SAMPLINGS = {
    "T 0": {"temperature": 0},
    "T 0.6, top_k 20, top_p 0.95": {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0},
    "T 1": {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0},
}


def ask(stub, i, question, sampling, nodes, depth):
    r = pb.ChatRequest(messages=[pb.Message(role="user", content=question)], sampling=pb.Sampling(seed=i + 1, **sampling),
                       stopping=pb.Stopping(max_tokens=TOKENS_MAX), thinking=pb.Thinking(enabled=True),
                       speculation=pb.Speculation(mode=pb.Speculation.NODES, nodes=nodes, depth=depth))
    return h.answer(stub.Chat(r, timeout=300))


def add_up(lists):
    lists = [list(x) for x in lists]
    return [sum(x[d] for x in lists if d < len(x)) for d in range(max(map(len, lists), default=0))]


def measure(questions, sampling, nodes, depth, at_once, flags):
    with h.Daemon(*flags, "--log-level", "info", "--draft-depth", depth) as daemon, concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        stub = daemon.stub()
        ticks, start = daemon.cpu_ticks(), time.monotonic()
        answers = list(pool.map(lambda q: ask(stub, *q, SAMPLINGS[sampling], nodes, depth), enumerate(questions)))
        ticks, wall = daemon.cpu_ticks() - ticks, time.monotonic() - start
    figures = [a.end.speculation for a in answers]
    tokens, passes = sum(len(a.ids) for a in answers), sum(f.passes for f in figures)
    drafted, accepted = (add_up(getattr(f, which) for f in figures) for which in ("drafted_by_depth", "accepted_by_depth"))
    return {"sampling": sampling, "nodes": nodes, "depth": depth, "flags": list(map(str, flags)), "tokens": tokens, "passes": passes,
            "tokens_a_pass": tokens / passes, "drafted": sum(drafted), "accepted": sum(accepted), "drafted_by_depth": drafted,
            "accepted_by_depth": accepted, "cpu_seconds": ticks / 100, "wall_seconds": wall}, [a.ids for a in answers]


def sizes_table(rows):
    out = ["| sampling | nodes | tokens a pass | drafted a pass | kept of drafted | CPU s |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for r in rows:
        out.append(f"| {r['sampling']}{' '.join(['', *r['flags']])} | {r['nodes']} | {r['tokens_a_pass']:.2f} | {r['drafted'] / r['passes']:.1f} | "
                   f"{100 * r['accepted'] / max(1, r['drafted']):.1f}% | {r['cpu_seconds']:.1f} |")
    return "\n".join(out)


def depth_table(rows, nodes, depth):
    rows = [r for r in rows if r["nodes"] == nodes and not r["flags"]]
    out = [f"Passes, of all, that keep a guess at least so deep ({nodes} nodes, depth {depth}):", "",
           "| sampling | " + " | ".join(map(str, range(1, depth + 1))) + " |", "| --- |" + " ---: |" * depth]
    for r in rows:
        out.append(f"| {r['sampling']} | " + " | ".join(f"{100 * k / r['passes']:.0f}%" for k in r["accepted_by_depth"][:depth]) + " |")
    return "\n".join(out)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--build", default="build/gcc")
    arguments.add_argument("-n", type=int, default=100, help="prompts")
    arguments.add_argument("--sizes", default="4,8,16,32,64")
    arguments.add_argument("--tops", default="2,4,8", help="--draft-top of more rows at 32 nodes")
    arguments.add_argument("--depth", type=int, default=BAR_DEPTH)
    arguments.add_argument("--samplings", default="0,1,2", help="which of: " + "; ".join(SAMPLINGS))
    arguments.add_argument("--at-once", type=int, default=4, help="questions in flight")
    arguments.add_argument("--json", type=pathlib.Path, help="all figures")
    arguments.add_argument("--flags", default="", help="of the daemon, in all rows")
    arguments.add_argument("--at-least", type=float, default=6.0)
    a = arguments.parse_args()
    h.Setup.outriderd = f"{a.build}/outriderd"
    draft = ["--draft", str(h.TARGET.parent / "draft")]
    rng = random.Random(SEED)
    questions = [corpus.sample(rng).question for _ in range(a.n)]
    draft += a.flags.split()
    cases = [(int(n), []) for n in a.sizes.split(",")] + [(BAR_NODES, ["--draft-top", t]) for t in a.tops.split(",") if t]
    rows, unlike = [], 0
    for sampling in [list(SAMPLINGS)[int(i)] for i in a.samplings.split(",")]:
        want = None
        for nodes, flags in cases:
            row, ids = measure(questions, sampling, nodes, a.depth, a.at_once, draft + flags)
            row["flags"] = flags
            rows.append(row)
            want = want or ids
            unlike += ids != want
    print(sizes_table(rows), depth_table(rows, BAR_NODES, a.depth), sep="\n\n")
    if a.json:
        a.json.write_text(json.dumps(rows, indent=1) + "\n")
    bar = [r["tokens_a_pass"] for r in rows if (r["sampling"], r["nodes"], r["depth"]) == ("T 0", BAR_NODES, BAR_DEPTH) and not r["flags"]]
    if unlike:
        sys.exit(f"acceptance.py: {unlike} rows gave other words than the first of their sampling")
    if bar and bar[0] < a.at_least:
        sys.exit(f"acceptance.py: {bar[0]:.2f} tokens a pass, at least {a.at_least} are wanted")


if __name__ == "__main__":
    main()
