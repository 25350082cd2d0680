#!/usr/bin/python3
"""How much a long prompt slows down who streams beside it: the gaps between the events of a running stream, while nothing else is asked
and while another client's prompt is read, in one daemon.

    stall.py [--build build/gcc] [--target synth:0.6b:dtype=q8] [--prompt 4000] [--threads 2] [--rounds 3] [--speculation off] [--flags "..."]

Prints one JSON object: p50, p90 and p99 of both, in ms, and their ratios.  Bar: p99 at most twice its idle value.
"""
import argparse
import json
import pathlib
import random
import shlex
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/daemon")]


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]


def request(pb, rng, prompt, tokens, mode):
    return pb.GenerateRequest(tokens=pb.TokenIds(ids=[rng.randrange(1000, 100000) for _ in range(prompt)]),
                              sampling=pb.Sampling(temperature=0, seed=1), stopping=pb.Stopping(max_tokens=tokens, ignore_eos=True),
                              speculation=pb.Speculation(mode=mode))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--build", default="build/gcc")
    arguments.add_argument("--target", default="synth:0.6b:dtype=q8")
    arguments.add_argument("--prompt", type=int, default=4000)
    arguments.add_argument("--threads", default="2")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--speculation", default="off", choices=("off", "auto"))
    arguments.add_argument("--flags", default="")
    a = arguments.parse_args()
    sys.argv[1:] = []
    import grpc
    import wire_harness as h
    from stubs import pb, rpc
    h.Setup.outriderd = f"{a.build}/outriderd"
    h.TARGET = a.target
    rng = random.Random(4242)
    mode = pb.Speculation.OFF if a.speculation == "off" else pb.Speculation.AUTO
    idle, beside, reading_s = [], [], []
    with h.Daemon("--threads", a.threads, "--ctx", "8192", *shlex.split(a.flags)) as daemon:
        gaps, stop = [], threading.Event()

        def stream():
            with grpc.insecure_channel(daemon.address) as channel:
                call = rpc.InferenceStub(channel).Generate(request(pb, rng, 128, 4000, mode))
                last = None
                for event in call:
                    now = time.monotonic()
                    if last and event.WhichOneof("event") == "delta":
                        gaps.append((now, now - last))
                    last = now
                    if stop.is_set():
                        call.cancel()
                        break

        runner = threading.Thread(target=stream)
        runner.start()
        while len(gaps) < 50:
            time.sleep(0.05)
        for _ in range(a.rounds):
            start = time.monotonic()
            time.sleep(8)
            between = time.monotonic()
            idle += [g for t, g in gaps if start < t < between]
            with grpc.insecure_channel(daemon.address) as channel:
                for event in rpc.InferenceStub(channel).Generate(request(pb, rng, a.prompt, 1, mode)):
                    pass
            end = time.monotonic()
            reading_s.append(end - between)
            beside += [g for t, g in gaps if between < t < end]
        stop.set()
        runner.join()
    figures = {"target": a.target, "prompt": a.prompt, "threads": int(a.threads), "speculation": a.speculation, "gaps_idle": len(idle),
               "gaps_beside": len(beside), "reading_s": round(quantile(reading_s, 0.5), 2)}
    for name, q in ("p50", 0.5), ("p90", 0.9), ("p99", 0.99):
        x, y = 1e3 * quantile(idle, q), 1e3 * quantile(beside, q)
        figures |= {f"idle_{name}_ms": round(x, 2), f"beside_{name}_ms": round(y, 2), f"ratio_{name}": round(y / x, 2)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
