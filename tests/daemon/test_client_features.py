#!/usr/bin/python3
"""What the client says of stop strings, n answers, logprobs, clocks and figures: over the fake engine, whose words are known."""
import json
import os
import signal
import subprocess
import time

from wire_harness import BUILD, Daemon, check, equal, main, test

OUTRIDER = os.environ.get("OUTRIDER", f"{BUILD}/outrider")


def outrider(d, *args, status=0):
    p = subprocess.run([OUTRIDER, *map(str, args), "--server", d.address], capture_output=True, text=True, timeout=60)
    equal(p.returncode, status, f"{args}: {p.stderr}")
    return p.stdout, p.stderr


def generate(d, *args, **kw):
    return outrider(d, "generate", "--raw", "--ignore-eos", "--max-tokens", 12, *args, "one two three four", **kw)


@test()
def stop_strings():
    with Daemon() as d:
        equal(generate(d, "--stop", "hre", "--stop", "never")[0], "one two t")
        j = json.loads(generate(d, "--stop", "hre", "--json")[0])
        equal((j["text"], j["finish"], j["matched"]), ("one two t", "stop", {"stop_string": "hre"}))
        _, err = generate(d, "--stop", "", status=3)
        check("stopping.stop[0] has 0 bytes" in err, err)


@test()
def n_answers():
    with Daemon() as d:
        j = json.loads(generate(d, "--n", 3, "--json", "--seed", 5)[0])
        equal(len(j["choices"]), 3)
        equal((j["seed"], j["resolved"]["n"]), ("5", 3))
        equal(len({c["text"] for c in j["choices"]}), 3)
        check(all(len(c["token_ids"]) == 12 and c["finish"] == "length" for c in j["choices"]))
        lines = [json.loads(line) for line in generate(d, "--n", 2, "--json-stream")[0].splitlines()]
        equal({e["choice"] for e in lines if e["event"] == "end"}, {0, 1})
        _, err = generate(d, "--n", 2, status=2)
        check("--json" in err, err)


@test()
def priorities_and_clocks():
    with Daemon(slow=True) as d:
        j = json.loads(outrider(d, "generate", "--raw", "--ignore-eos", "--max-tokens", 60, "--priority", -7, "--thinking-deadline", 0.3,
                                "--json", "<think>a b c d e")[0])
        equal((j["resolved"]["priority"], j["resolved"]["thinking_deadline_ms"]), (-7, 300))
        check(0 < j["closed_at"] < 60 and "Considering the limited time" in j["text"], j)


@test()
def bad_flags():
    with Daemon() as d:
        for args, word in ((("--n", 9, "--json"), "--n takes"), (("--logit-bias", "4"), "42:-1.5"), (("--logprobs", 3), "--json"),
                           (("--thinking-deadline", 0), "seconds"), (("--priority", 101), "--priority takes")):
            _, err = generate(d, *args, status=2)
            check(word in err, err)


@test()
def stats():
    with Daemon() as d:
        generate(d)
        out, _ = outrider(d, "stats")
        check("1 received; ended: 0 stop, 1 length" in out and "pages" in out, out)
        j = json.loads(outrider(d, "stats", "--json")[0])
        equal((j["requests"]["length"], j["output_tokens"]), (1, 12))
        p = subprocess.Popen([OUTRIDER, "stats", "--watch", "--json", "--server", d.address], stdout=subprocess.PIPE, text=True)
        lines = [json.loads(p.stdout.readline()) for _ in range(2)]
        check(lines[1]["uptime_s"] > lines[0]["uptime_s"])
        p.send_signal(signal.SIGINT)
        equal(p.wait(20), 0)
        p.stdout.close()
        p = subprocess.Popen([OUTRIDER, "stats", "--watch=1", "--server", d.address], stdout=subprocess.PIPE, text=True)
        check("running" in p.stdout.readline())
        time.sleep(0.1)
        p.send_signal(signal.SIGINT)
        equal(p.wait(20), 0)
        p.stdout.close()
        outrider(d, "stats", "--watch=0", status=2)
        outrider(d, "stats", "more", status=2)


if __name__ == "__main__":
    main(fake=True)
