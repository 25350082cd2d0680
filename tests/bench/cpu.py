#!/usr/bin/env python3
"""The bars of the CPU in one run: `make bench-cpu`, or `cpu.py [--build DIR] [--seconds S] [--threads N]`.

Passes of the 0.6B shape with random weights (outrider bench-forward, which probes the machine's read bandwidth beside them) in Q8
and Q4, the same with the AVX2 kernels, a prompt of 512 rows from an empty context, and attention over 8192 positions (tests/bench/attn).
One JSON object: each bar with its limit, what was measured, and whether it holds; then everything that was measured.  Medians.
A machine that is not quiet measures its neighbours: `best_ms` beside each median says how much.
"""
import argparse
import json
import subprocess
import sys


def forward(o, quant, rows, *more):
    command = [f"{o.build}/outrider", "bench-forward", "--model", "synth:0.6b", "--quant", quant, "--rows", rows,
               "--threads", str(o.threads), "--seconds", str(o.seconds), "--json", *more]
    print(" ".join(command), file=sys.stderr)
    run = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    run["at"] = {s["rows"]: s for s in run["sizes"]}
    return run


def attention(o):
    command = [f"{o.build}/tests/bench/attn", "--threads", str(min(o.threads, 8))]
    print(" ".join(command), file=sys.stderr)
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def bars(q8, q4, attn):
    def bar(name, value, limit, most=True):
        return {"bar": name, "limit": limit, "measured": round(value, 3), "holds": value <= limit if most else value >= limit}

    at8, at4 = q8["at"], q4["at"]
    return [bar("Q8 decode: share of what the machine reads", at8[1]["of_read"], 0.92, most=False),
            bar("Q8 T(8) / T(1)", at8[8]["ms"] / at8[1]["ms"], 1.30),
            bar("Q8 T(16) / T(1)", at8[16]["ms"] / at8[1]["ms"], 2.10),
            bar("Q4 T(8) / T(1)", at4[8]["ms"] / at4[1]["ms"], 1.6),
            bar("Q4 T(16) / T(1)", at4[16]["ms"] / at4[1]["ms"], 2.7),
            bar("attention at 8192: 8 rows / 1 row", attn["rows"]["8"]["ratio"], 2.9),
            bar("attention at 8192, 8 rows: share of the multiply-add peak", attn["rows"]["8"]["of_peak"], 0.75, most=False)]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default="build/gcc")
    p.add_argument("--seconds", type=int, default=20, help="a set of passes")
    p.add_argument("--threads", type=int, default=2)
    o = p.parse_args()
    rows = "1,2,4,8,16,32,64"
    q8, q4 = forward(o, "q8", rows), forward(o, "q4", rows)
    prompt = {quant: forward(o, quant, "512", "--context", "0") for quant in ("q8", "q4")}
    avx2 = {quant: forward(o, quant, "1,8,16", "--isa", "avx2") for quant in ("q8", "q4")}
    avx2_prompt = {quant: forward(o, quant, "512", "--context", "0", "--isa", "avx2") for quant in ("q8", "q4")}
    attn = attention(o)
    runs = [q8, q4, *prompt.values(), *avx2.values(), *avx2_prompt.values()]
    out = {"bars": bars(q8, q4, attn), "attention": attn, "passes": [{k: v for k, v in r.items() if k != "at"} for r in runs]}
    json.dump(out, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
