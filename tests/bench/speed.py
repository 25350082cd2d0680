#!/usr/bin/python3
"""Tokens a second at the client on the tiny pair, 1 and 16 clients, drafting off and auto, through a daemon it starts.

    speed.py [--build build/gcc] [--quant q8] [--threads 2] [--clients 1,16] [--seconds 5] [--repeats 3] [--flags "..."] [--json FILE]

Each client is a process of its own that asks one question of the corpus after the other, thinking on, greedy, and counts the ids that
came.  Cases take turns, so that a busy machine is busy for all of them; the best turn is shown, with the daemon's processor time a token
(of all turns), which a busy machine changes less.
"""
import argparse
import json
import multiprocessing
import pathlib
import random
import shlex
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "assets/tiny/train"), str(ROOT / "tests/daemon")]
import corpus  # noqa: E402

SEED, TOKENS_MAX = 4242, 400


def client(address, number, off, seconds, start, out):
    """One process: asks until its time is up; puts (tokens, passes, seconds of the last stream's end)."""
    import grpc
    from stubs import pb, rpc
    rng = random.Random(SEED + number)
    mode = pb.Speculation.OFF if off else pb.Speculation.AUTO
    with grpc.insecure_channel(address) as channel:
        stub = rpc.InferenceStub(channel)
        stub.GetModel(pb.GetModelRequest())
        start.wait()
        tokens = passes = 0
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            r = pb.ChatRequest(messages=[pb.Message(role="user", content=corpus.sample(rng).question)], sampling=pb.Sampling(temperature=0),
                               stopping=pb.Stopping(max_tokens=TOKENS_MAX), thinking=pb.Thinking(enabled=True),
                               speculation=pb.Speculation(mode=mode))
            for event in stub.Chat(r):
                tokens += len(event.delta.token_ids)
                passes += event.end.speculation.passes
        out.put((tokens, passes, time.monotonic() - began))


def turn(daemon, clients, off, seconds):
    start, out = multiprocessing.Barrier(clients), multiprocessing.Queue()
    who = [multiprocessing.Process(target=client, args=(daemon.address, i, off, seconds, start, out)) for i in range(clients)]
    ticks = daemon.cpu_ticks()
    for p in who:
        p.start()
    done = [out.get() for _ in who]
    for p in who:
        p.join()
    tokens = sum(t for t, _, _ in done)
    return {"tokens": tokens, "passes": sum(p for _, p, _ in done), "tokens_a_second": tokens / max(s for _, _, s in done),
            "cpu_us_a_token": 1e4 * (daemon.cpu_ticks() - ticks) / tokens}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--build", default="build/gcc")
    arguments.add_argument("--quant", default="q8")
    arguments.add_argument("--threads", default="2")
    arguments.add_argument("--clients", default="1,16")
    arguments.add_argument("--seconds", type=float, default=5)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--flags", default="", help="more flags of the daemon")
    arguments.add_argument("--json", type=pathlib.Path)
    a = arguments.parse_args()
    sys.argv[1:] = []
    multiprocessing.set_start_method("spawn")  # gRPC does not survive a fork
    import wire_harness as h
    h.Setup.outriderd = f"{a.build}/outriderd"
    cases = {(int(n), off): [] for n in a.clients.split(",") for off in (True, False)}
    flags = ["--draft", h.TARGET.parent / "draft", "--target-quant", a.quant, "--draft-quant", a.quant, "--threads", a.threads,
             "--log-level", "info", *shlex.split(a.flags)]
    with h.Daemon(*flags) as daemon:
        for _ in range(a.repeats):
            for (clients, off), turns in cases.items():
                turns.append(turn(daemon, clients, off, a.seconds))
    print("| clients | drafting | tokens/s, best | tokens a pass | daemon CPU us a token |", "| ---: | --- | ---: | ---: | ---: |", sep="\n")
    for (clients, off), turns in cases.items():
        tokens, passes = sum(t["tokens"] for t in turns), sum(t["passes"] for t in turns)
        cpu = sum(t["tokens"] * t["cpu_us_a_token"] for t in turns) / tokens
        print(f"| {clients} | {'off' if off else 'auto'} | {max(t['tokens_a_second'] for t in turns):.0f} | {tokens / passes:.2f} | {cpu:.1f} |")
    if a.json:
        a.json.write_text(json.dumps([{"clients": c, "off": off, "turns": t} for (c, off), t in cases.items()], indent=1) + "\n")


if __name__ == "__main__":
    main()
