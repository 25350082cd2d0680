#!/usr/bin/python3
"""Whether the daemon grows: its resident memory after 1,000 and after 10,000 requests on the tiny pair.

    steady.py [--build build/gcc] [--requests 10000] [--clients 8]

The pools of pages are small, so that the first requests touch all of them.  Prints one JSON object.  Bar: within 5 % of each other.
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


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--build", default="build/gcc")
    arguments.add_argument("--requests", type=int, default=10000)
    arguments.add_argument("--clients", type=int, default=8)
    a = arguments.parse_args()
    sys.argv[1:] = []
    import wire_harness as h
    from stubs import pb
    h.Setup.outriderd = f"{a.build}/outriderd"
    rng = random.Random(4242)
    requests = [pb.ChatRequest(messages=[pb.Message(role="user", content=corpus.sample(rng).question)], sampling=pb.Sampling(seed=i),
                               stopping=pb.Stopping(max_tokens=1 + i % 120), thinking=pb.Thinking(enabled=i % 2 == 0))
                for i in range(a.requests)]
    with h.Daemon("--draft", h.TARGET.parent / "draft", "--threads", 2, "--kv-bytes", "4M", "--draft-kv-bytes", "4M", "--log-level",
                  "info") as daemon, concurrent.futures.ThreadPoolExecutor(a.clients) as pool:
        stubs = [daemon.stub() for _ in range(a.clients)]
        rss, start = {}, time.monotonic()
        for since, to in (0, a.requests // 10), (a.requests // 10, a.requests):
            for _ in pool.map(lambda i: list(stubs[i % a.clients].Chat(requests[i])), range(since, to)):
                pass
            rss[to] = daemon.rss_kib()
        first, last = rss.values()
        print(json.dumps({"requests": list(rss), "rss_kib": [first, last], "ratio": round(last / first, 4),
                          "seconds": round(time.monotonic() - start, 1)}))


if __name__ == "__main__":
    main()
