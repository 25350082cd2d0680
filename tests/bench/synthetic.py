#!/usr/bin/python3
"""Drafting by cost against none on real shapes with random weights, under synthetic acceptance.

    synthetic.py [--target synth:8b] [--draft synth:0.6b] [--quants q8,q4] [--rates .80,.75,.70,.65,.60] [--clients 1] [--tokens 128]
                 [--pairs 3] [--prompt 16] [--warmup 1] [--threads 2] [--flags "..."] [--same]
                 [--server HOST:PORT] [--json FILE]

Through a daemon it starts, or through the one at --server (then --target, --draft, --quants, --threads and --flags only name it).
Pairs of the same requests, auto and off in turn, and which goes first changes from pair to pair.  The guesses that are kept are kept by a
coin: the words mean nothing, only times do.  Beside the ratios stands what the daemon believes of its costs, and what those costs allow
at best: the chain of the depth at which tokens a millisecond are most.
"""
import argparse
import contextlib
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import time
import types

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/daemon"))


def call(*command):
    p = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, check=True)
    return json.loads(p.stdout)


def drafting(a, daemon):
    return call(f"{a.build}/outrider", "stats", "--server", daemon.address, "--json")["drafting"]


def bench(a, daemon, seed, mode, requests):
    before = drafting(a, daemon)
    run = call(f"{a.build}/outrider", "bench", "--server", daemon.address, "--synthetic", f"{a.prompt},{a.tokens}", "--concurrency", a.clients,
               "--requests", requests, "--seed", seed, "--temperature", a.temperature, "--speculation", mode, "--json")
    assert "synthetic_acceptance" in run, "the daemon does not say that its acceptance is synthetic"
    r = run["runs"][0]
    assert r["requests"]["ok"] == requests, r["requests"]
    after = drafting(a, daemon)
    counts = {k: after[k] - before[k] for k in after if k.startswith("rounds_") or k in ("probes", "levels")}
    return {"tokens_per_s": r["tokens_per_s"], "tokens_per_pass": r["tokens_per_pass"], "drafted": r["drafted"], "accepted": r["accepted"],
            "passes": r["passes"], "tpot_ms": r["tpot_ms"]["p50"], "ttft_ms": r["ttft_ms"]["p50"],
            "counts": counts, "seconds": r["duration_s"], "accepted_per_pass_by_depth": [round(d["per_pass"], 3) for d in r["acceptance_by_depth"]]}


def at(costs, rows):
    """ms of a pass over so many rows, between those measured."""
    known = sorted((c["rows"], c["ms"]) for c in costs)
    below = [k for k in known if k[0] <= rows][-1:] or known[:1]
    above = [k for k in known if k[0] >= rows][:1] or known[-1:]
    (r0, t0), (r1, t1) = below[0], above[0]
    return t0 if r0 == r1 else t0 + (t1 - t0) * (rows - r0) / (r1 - r0)


def possible(drafting, rates, clients):
    """(ratio, depth) of the best chain for all clients, by the costs believed."""
    off = at(drafting["target"], clients)
    best, kept, chance = (1.0, 0), 1.0, 1.0
    for depth, rate in enumerate(rates, 1):
        chance *= rate
        kept += chance
        ms = at(drafting["target"], clients * (1 + depth)) + depth * at(drafting["level"], clients)
        best = max(best, (kept * off / ms, depth))
    return best


def measure(a, daemon, pairs):
    for k in range(a.warmup):
        bench(a, daemon, a.first if a.same else 1000 + k, "auto", a.clients)
    for k in range(a.pairs):
        modes = ["auto", "off"] if k % 2 == 0 else ["off", "auto"]
        seed = a.first + (0 if a.same else k * a.clients)
        pair = {m: bench(a, daemon, seed, m, a.clients) for m in modes}
        pair["ratio"] = pair["auto"]["tokens_per_s"] / pair["off"]["tokens_per_s"]
        pairs.append(pair)
        print(f"pair {k + 1}: auto {pair['auto']['tokens_per_s']:.2f} off {pair['off']['tokens_per_s']:.2f} tokens/s, "
              f"ratio {pair['ratio']:.3f}, {pair['auto']['tokens_per_pass']:.2f} tokens a pass; ms to the first token "
              f"{pair['auto']['ttft_ms']:.0f} {pair['off']['ttft_ms']:.0f}, a token {pair['auto']['tpot_ms']:.1f} {pair['off']['tpot_ms']:.1f}; "
              f"{ {k: v for k, v in pair['auto']['counts'].items() if v} }", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--build", default="build/gcc")
    arguments.add_argument("--target", default="synth:8b")
    arguments.add_argument("--draft", default="synth:0.6b")
    arguments.add_argument("--quants", default="q8,q4")
    arguments.add_argument("--rates", default=".80,.75,.70,.65,.60")
    arguments.add_argument("--clients", type=int, default=1)
    arguments.add_argument("--tokens", type=int, default=128)
    arguments.add_argument("--prompt", type=int, default=16)
    arguments.add_argument("--pairs", type=int, default=3)
    arguments.add_argument("--warmup", type=int, default=1, help="rounds of requests that are not measured")
    arguments.add_argument("--first", type=int, default=1, help="seed of the first pair: runs in parts do not repeat each other")
    arguments.add_argument("--same", action="store_true", help="all pairs ask the same: their prompts are cached (with --flags '--prefix-cache on')")
    arguments.add_argument("--temperature", type=float, default=0)
    arguments.add_argument("--threads", default="2")
    arguments.add_argument("--flags", default="", help="more flags of the daemon")
    arguments.add_argument("--server", help="a daemon that runs already")
    arguments.add_argument("--json", type=pathlib.Path)
    a = arguments.parse_args()
    sys.argv[1:] = []
    import wire_harness as h
    h.Setup.outriderd, h.TARGET = f"{a.build}/outriderd", a.target
    quants = a.quants.split(",")
    pairs, began = [], time.time()
    flags = ["--draft", a.draft, "--target-quant", quants[0], "--draft-quant", quants[1], "--threads", a.threads, "--prefix-cache", "off",
             "--synthetic-acceptance", a.rates, "--log-level", "info", *shlex.split(a.flags)]
    with contextlib.nullcontext(types.SimpleNamespace(address=a.server)) if a.server else h.Daemon(*flags) as daemon:
        started = time.time() - began
        time.sleep(0 if a.server else 8)  # it measures what passes take while it has nothing to do
        measure(a, daemon, pairs)
        stats = call(f"{a.build}/outrider", "stats", "--server", daemon.address, "--json")
    ratios = [p["ratio"] for p in pairs]
    best, depth = possible(stats["drafting"], [float(r) for r in a.rates.split(",")], a.clients)
    print(f"{a.clients} clients, {a.target} {quants[0]} + {a.draft} {quants[1]}: auto / off median {statistics.median(ratios):.3f} of {len(ratios)} "
          f"({min(ratios):.3f} .. {max(ratios):.3f}); by the costs below a chain of {depth} gives {best:.3f}")
    for name in "target", "level":
        print(f"  {name} ms by rows:", ", ".join(f"{c['rows']}: {c['ms']:.4g}" for c in stats["drafting"][name]))
    print("  drafting:", {k: v for k, v in stats["drafting"].items() if k not in ("target", "level")})
    if a.json:
        a.json.write_text(json.dumps({"arguments": {k: str(v) for k, v in vars(a).items()}, "start_s": started, "pairs": pairs,
                                      "median": statistics.median(ratios), "possible": best, "stats": stats}, indent=1) + "\n")


if __name__ == "__main__":
    main()
