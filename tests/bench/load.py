#!/usr/bin/python3
"""How long a daemon takes until it serves, what memory that takes, and what the pack cache saves.

    load.py --model DIR [--quant q8] [--threads 2] [--runs 5] [--tokens 64] [--build build/gcc] [--outriderd OPTION ...]

Starts without a cache, one that fills an empty cache, and starts from it, `runs` times each, plain and cached ones in turn; the
checkpoint and the packed file lie in the page cache. Each start generates some tokens, so that what the first passes touch counts, too.
Prints one JSON object:

    seconds         from exec to `ready`: median, least, most
    a_gb            the median by GB (1e9 bytes) of checkpoint
    peak_mb         most resident memory until `ready` (VmHWM), MB; over_packed: less the packed weights
    after_mb        resident memory after the tokens; over_all: less the packed weights, the pages of keys and values of this text, and
                    table_mb: what of the embedding is mapped, which is read as stored; clean pages of the page cache, by the folio
    tokens_s        tokens a second of one client, drafting off

Bars: 2 s a GB without, 0.2 s with the cache; peak at most 1000 MB over the packed weights, after at most 100 MB over weights and KV.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time

PROMPT = 64


def status(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return {k: int(v) * 1024 for k, v in re.findall(r"^(VmHWM|VmRSS|RssFile):\s+(\d+) kB", text, re.M)}


def mapped(pid, where):
    """Resident bytes of mappings of files below `where`."""
    total, inside = 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = str(where) in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def kv_bytes(model, tokens):
    """Of one text, in whole pages of 64 positions, BF16."""
    c = json.loads((model / "config.json").read_text())
    pages = -(-tokens // 64)
    return pages * 64 * c["num_hidden_layers"] * 2 * c["num_key_value_heads"] * c["head_dim"] * 2


class Start:
    """One daemon, from exec to exit."""

    def __init__(self, a, where, *options):
        self.log = where / "log"
        socket = f"unix:{where}/socket"
        r, w = os.pipe()
        command = [f"{a.build}/outriderd", "--target", str(a.model), "--target-quant", a.quant, "--threads", str(a.threads),
                   "--listen", socket, "--ready-fd", str(w), *options, *a.outriderd]
        with open(self.log, "wb") as log:
            began = time.monotonic()
            p = subprocess.Popen(command, pass_fds=[w], stderr=log)
        os.close(w)
        if os.read(r, 16) != b"ready\n":
            raise SystemExit(self.log.read_text())
        self.seconds = time.monotonic() - began
        os.close(r)
        self.peak = status(p.pid)["VmHWM"]
        out = subprocess.run([f"{a.build}/outrider", "bench", "--server", socket, "--concurrency", "1", "--requests", "1", "--speculation",
                              "off", "--synthetic", f"{PROMPT},{a.tokens}", "--json"], stdout=subprocess.PIPE, check=True)
        self.tpot_ms = json.loads(out.stdout)["runs"][0]["tpot_ms"]["p50"]
        self.after = status(p.pid)["VmRSS"]
        self.table = mapped(p.pid, a.model.resolve())
        self.wait_for_cache()
        p.terminate()
        p.wait()

    def lines(self):
        return [l.split("pack cache: ", 1)[1] for l in self.log.read_text().splitlines() if "pack cache: " in l]

    def wait_for_cache(self):
        while any("; packing" in l for l in self.lines()) and not any(" MB to " in l or "served without" in l for l in self.lines()):
            time.sleep(0.05)


def figures(a, starts, packed, checkpoint):
    seconds = [s.seconds for s in starts]
    over = packed + kv_bytes(a.model, PROMPT + a.tokens)
    return {"seconds": [round(f(seconds), 3) for f in (statistics.median, min, max)],
            "a_gb": round(statistics.median(seconds) / (checkpoint / 1e9), 3),
            "peak_mb": round(max(s.peak for s in starts) / 1e6), "over_packed": round((max(s.peak for s in starts) - packed) / 1e6),
            "after_mb": round(max(s.after for s in starts) / 1e6), "over_all": round((max(s.after - s.table for s in starts) - over) / 1e6),
            "table_mb": round(max(s.table for s in starts) / 1e6),
            "tokens_s": round(1e3 / statistics.median(s.tpot_ms for s in starts), 2)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=pathlib.Path, required=True)
    p.add_argument("--quant", default="q8")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--build", default="build/gcc")
    p.add_argument("--outriderd", nargs=argparse.REMAINDER, default=[])
    a = p.parse_args()
    checkpoint = sum(f.stat().st_size for f in a.model.glob("*.safetensors"))
    for f in a.model.glob("*.safetensors"):
        subprocess.run(["cat", str(f)], stdout=subprocess.DEVNULL, check=True)
    with tempfile.TemporaryDirectory() as where:
        where = pathlib.Path(where)
        cache = where / "cache"
        filling = Start(a, where, "--pack-cache", str(cache))
        packed = sum(f.stat().st_size for f in cache.glob("*.pack"))
        plain, cached = [], []
        for _ in range(a.runs):
            plain.append(Start(a, where))
            cached.append(Start(a, where, "--pack-cache", str(cache)))
        print(json.dumps({"model": str(a.model.name), "checkpoint_mb": round(checkpoint / 1e6), "packed_mb": round(packed / 1e6),
                          "quant": a.quant, "threads": a.threads, "runs": a.runs,
                          "plain": figures(a, plain, packed, checkpoint), "cached": figures(a, cached, packed, checkpoint),
                          "said": filling.lines() + cached[-1].lines()}))
        shutil.rmtree(cache)


if __name__ == "__main__":
    main()
