#!/usr/bin/python3
"""Drafting by cost against none on the tiny pair: every class of prompts, at 1, 4 and 16 clients, greedy and at temperature 1.

    classes.py [--clients 1,4,16] [--temperatures 0,1] [--threads 2] [--quant q8] [--pairs 11] [--thinking yes,no]
               [--build build/gcc]

Prompts are those of the references: 40 that are thought about, 40 that are answered at once.  One daemon a row; pairs of runs of the same
requests, with auto and with off, which goes first changes; the medians of the pairs' ratios (tokens/s: above 1, auto is faster; TTFT: below
1).  Prints one JSON object; says on standard error how far it is.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/daemon"))
LINES = ROOT.parent / "shared/golden/tiny.jsonl"


def prompts(thinking):
    found = [json.loads(l) for l in LINES.read_text().splitlines()]
    words = dict.fromkeys(r["user"] for r in found if r["model"] == "target" and r["enable_thinking"] == thinking)
    return list(words)[:40]


def bench(a, daemon, data, thinking, clients, temperature, mode, seed):
    p = subprocess.run([f"{a.build}/outrider", "bench", "--server", daemon.address, "--dataset", data, "--think" if thinking else "--no-think",
                        "--max-tokens", "400", "--temperature", str(temperature), "--requests", str(80 + 40 * clients), "--seed", str(seed),
                        "--concurrency", str(clients), "--speculation", mode, "--json"], stdout=subprocess.PIPE, check=True)
    r = json.loads(p.stdout)["runs"][0]
    return r["tokens_per_s"], r["ttft_ms"]["p50"], r["tokens_per_pass"]


def row(a, daemon, data, thinking, clients, temperature):
    bench(a, daemon, data, thinking, clients, temperature, "auto", 1000)  # prompts are read, costs are known
    pairs = []
    for i in range(a.pairs):
        got = {m: bench(a, daemon, data, thinking, clients, temperature, m, i) for m in (("auto", "off") if i % 2 else ("off", "auto"))}
        pairs.append((got["auto"][0] / got["off"][0], got["auto"][1] / got["off"][1], got["auto"][0], got["off"][0], got["auto"][2]))
    stats = json.loads(subprocess.run([f"{a.build}/outrider", "stats", "--server", daemon.address, "--json"], stdout=subprocess.PIPE,
                                      check=True).stdout)["drafting"]
    middle = [round(statistics.median(p[k] for p in pairs), 3) for k in range(5)]
    return {"thinking": thinking, "clients": clients, "temperature": temperature, "auto_over_off": middle[0], "ttft_auto_over_off": middle[1],
            "tokens_per_s": middle[2:4], "tokens_per_pass": middle[4], "pairs": [round(p[0], 3) for p in pairs],
            "rounds": {k[7:]: v for k, v in stats.items() if k.startswith("rounds_")}}


def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("--clients", default="1,4,16")
    p.add_argument("--temperatures", default="0,1")
    p.add_argument("--threads", default="2")
    p.add_argument("--quant", default="q8")
    p.add_argument("--thinking", default="yes,no")
    p.add_argument("--pairs", type=int, default=11)
    p.add_argument("--build", default="build/gcc")
    a = p.parse_args()
    sys.argv[1:] = []
    import wire_harness as h
    h.Setup.outriderd = f"{a.build}/outriderd"
    rows = []
    for thinking in (t == "yes" for t in a.thinking.split(",")):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
            f.write("".join(json.dumps({"prompt": w}) + "\n" for w in prompts(thinking)))
            f.flush()
            for clients in map(int, a.clients.split(",")):
                for t in map(float, a.temperatures.split(",")):
                    with h.Daemon("--draft", h.TARGET.parent / "draft", "--target-quant", a.quant, "--threads", a.threads) as d:
                        rows.append(row(a, d, f.name, thinking, clients, t))
                    print(json.dumps(rows[-1]), file=sys.stderr)
    json.dump({"quant": a.quant, "threads": int(a.threads), "rows": rows}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
