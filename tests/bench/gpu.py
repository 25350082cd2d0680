#!/usr/bin/python3
"""One JSON table of what the GPU at hand does: `make bench-gpu`.

    gpu.py [--build build/gcc] [--device 0] [--seconds 460] [--lane]

Parts, in this order, until the seconds are used up; what was not measured is null, and "not_measured" says why:
    bandwidth   bytes read a second (tests/bench/gpu.cu), the floor of everything below
    passes      T(M) of 0.6B, 8B, 32B in BF16 and FP8 and of 30B-A3B, random weights made on the device; percent_of_floor: bytes over
                bandwidth, as part of the device's time
    attention   T(1) and T(16) of the 8B shape by context
    served      tokens a second of the daemon, target on the GPU, draft on the CPU, speculation auto and off, 1 to 64 clients; with
                --synthetic-acceptance where the daemon has it, else with random models, whose guesses are never right
    peers       PyTorch with CUDA graphs on the 8B shape (transformers' model), where installed
--lane: the same on the host lane, tiny shapes and few answers, as a test that all of it runs: prints "ok NAME" and "FAIL NAME why".
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPES = [("0.6b", "bf16"), ("0.6b", "fp8"), ("8b", "bf16"), ("8b", "fp8"), ("32b", "bf16"), ("32b", "fp8"), ("30b-a3b", "bf16")]
ROWS, CONTEXTS, CLIENTS = "1,4,8,16,32,64,128,256", "1024,4096,32768", (1, 4, 16, 64)
ACCEPTANCE = "0.8,0.7,0.6,0.5"
SERVED = ["--target", "synth:8b", "--draft", "synth:0.6b"]
LANE = {"shapes": [("tiny", "q8"), ("tiny-moe", "fp8")], "rows": "1,65",
        "contexts": "64,128", "clients": (1,), "more": ["--milliseconds", "1", "--megabytes", "1"], "answer": "8,6",
        "served": ["--target", "assets/tiny/target", "--draft", "assets/tiny/draft", "--kv-bytes", "16M", "--draft-kv-bytes", "16M", "--ctx", "512"]}
GPU = {"shapes": SHAPES, "rows": ROWS, "contexts": CONTEXTS, "clients": CLIENTS, "more": [], "answer": "128,128", "served": SERVED}


class Bench:
    def __init__(self, options):
        self.build, self.device, self.lane = pathlib.Path(options.build), options.device, options.lane
        self.want = LANE if self.lane else GPU
        self.until = time.monotonic() + options.seconds
        self.program = self.build / ("lane" if self.lane else "gpu") / "tests/bench/gpu"
        self.daemon = self.build / ("lane/outriderd" if self.lane else "outriderd")
        self.missing = {}

    def left(self):
        return self.until - time.monotonic()

    def measured(self, name, seconds, part):
        """part()'s result; None where time is up or it fails, with the reason kept."""
        if self.left() < seconds:
            self.missing[name] = "no time was left"
            return None
        try:
            return part()
        except (OSError, subprocess.SubprocessError, ValueError) as e:
            said = getattr(e, "stderr", None) or b""
            self.missing[name] = (said.decode("utf-8", "replace").strip().splitlines() or [str(e)])[-1]
            return None

    def run(self, *args):
        p = subprocess.run([str(self.program), "--device", str(self.device), *args], capture_output=True, check=True,
                           timeout=max(self.left(), 1))
        return json.loads(p.stdout)

    # --- one pass ---

    def bandwidth(self):
        return self.run("--bandwidth", *self.want["more"])

    def points(self, shape, dtype, rows, contexts, read_gb_s):
        points = self.run("--shape", shape, "--dtype", dtype, "--rows", rows, "--contexts", contexts, *self.want["more"])["points"]
        for p in points:
            p["gap_ms"] = round(p["round_ms"] - p["device_ms"], 4)
            p["floor_ms"] = round(p["bytes"] / read_gb_s / 1e6, 4) if read_gb_s else None
            p["percent_of_floor"] = round(100 * p["floor_ms"] / p["device_ms"], 1) if read_gb_s and p["device_ms"] else None
        return points

    def passes(self, read_gb_s):
        first = self.want["contexts"].split(",")[0]
        return [{"shape": s, "dtype": d,
                 "points": self.measured(f"passes {s} {d}", 20, lambda: self.points(s, d, self.want["rows"], first, read_gb_s))}
                for s, d in self.want["shapes"]]

    def attention(self, read_gb_s):
        shape, dtype = ("tiny", "bf16") if self.lane else ("8b", "bf16")
        points = self.measured("attention", 30, lambda: self.points(shape, dtype, "1,16", self.want["contexts"], read_gb_s))
        return {"shape": shape, "dtype": dtype, "points": points}

    # --- the daemon ---

    def start(self):
        command = [str(self.daemon), "--device", f"cuda:{self.device}", "--listen", "127.0.0.1:0", *self.want["served"]]
        known = subprocess.run([str(self.daemon), "--help"], capture_output=True, check=True).stdout.decode()
        acceptance = ACCEPTANCE if "--synthetic-acceptance" in known and not self.lane else None
        if acceptance:
            command += ["--synthetic-acceptance", acceptance]
        p = subprocess.Popen(command, stderr=subprocess.PIPE, env=dict(os.environ, NO_COLOR="1"))
        said = []
        for line in p.stderr:
            said.append(line.decode("utf-8", "replace").strip())
            found = re.search(r"listening on .*?:(\d+)", said[-1])
            if found:
                return p, f"127.0.0.1:{found[1]}", acceptance
        p.wait()
        raise ValueError(f"{self.daemon} did not start: {(said or ['it said nothing'])[-1]}")

    def load(self, address, clients):
        p = subprocess.run([str(self.build / "outrider"), "bench", "--server", address, "--synthetic", self.want["answer"], "--json",
                            "--concurrency", str(clients), "--requests", str(2 * clients), "--speculation", "both"],
                           capture_output=True, check=True, timeout=max(self.left(), 1))
        out = json.loads(p.stdout)
        runs = {r["speculation"]: {k: r[k] for k in ("tokens_per_s", "tokens_per_pass", "drafted", "accepted")} for r in out["runs"]}
        return dict(runs, clients=clients, differ=out["pairs"]["answers_differ"])

    def served(self):
        started = self.measured("served", 60, self.start)
        if not started:
            return None
        daemon, address, acceptance = started
        try:
            runs = [self.measured(f"served {n} clients", 20, lambda: self.load(address, n)) for n in self.want["clients"]]
        finally:
            daemon.terminate()
            daemon.communicate(timeout=60)
        return {"flags": self.want["served"], "synthetic_acceptance": acceptance, "runs": runs}

    # --- peers ---

    def peers(self):
        small = ["--tiny", "--device", "cpu", "--passes", "2"] if self.lane else []
        p = subprocess.run([sys.executable, str(ROOT / "tests/bench/gpu_peers.py"), *small], capture_output=True, check=True,
                           timeout=max(self.left(), 1))
        return json.loads(p.stdout)

    def table(self):
        card = self.measured("bandwidth", 5, self.bandwidth)
        read_gb_s = card and card["read_gb_s"]
        table = {"date": time.strftime("%Y-%m-%d"), "card": card, "passes": self.passes(read_gb_s), "attention": self.attention(read_gb_s),
                 "served": self.served(), "peers": self.measured("peers", 60, self.peers)}
        return dict(table, not_measured=self.missing)


def check(table):
    """The lane's: every part that runs anywhere has come, and answers do not differ with speculation on."""
    points = [p for s in table["passes"] for p in s["points"] or []] + (table["attention"]["points"] or [])
    served = table["served"]["runs"][0] if table["served"] else None
    peers = table["peers"] or {}
    tests = {"bandwidth": table["card"] is not None,
             "passes": all(s["points"] and len(s["points"]) == 2 for s in table["passes"]),
             "attention": bool(table["attention"]["points"]) and len(table["attention"]["points"]) == 4,
             "times": bool(points) and all(p["round_ms"] > 0 and p["passes"] >= 3 and p["bytes"] > 0 for p in points),
             "served": bool(served) and served["auto"]["tokens_per_s"] > 0 and served["off"]["tokens_per_s"] > 0 and served["differ"] == 0,
             "peers": bool(peers) and all(w.startswith("not installed") for w in peers["not_measured"].values())}
    for name, ok in tests.items():
        print(f"ok {name}" if ok else f"FAIL {name} {json.dumps(table)}")
    return not all(tests.values())


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--build", default="build/gcc")
    p.add_argument("--device", type=int, default=0)
    p.add_argument("--seconds", type=float, default=460)
    p.add_argument("--lane", action="store_true")
    options = p.parse_args()
    os.chdir(ROOT)
    table = Bench(options).table()
    if options.lane:
        return check(table)
    if not table["card"]:
        sys.exit(f"bench-gpu: there is no GPU to measure: {table['not_measured']['bandwidth']}; it needs a card of capability 8.0 or later "
                 "and its driver")
    print(json.dumps(table, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
