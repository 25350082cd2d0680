#!/usr/bin/python3
"""Synthetic acceptance: refused where the daemon was not started with it, and said in every output where it was.  Usage: see
client_harness.py."""
import json
import os
import re
import subprocess
import sys
import tempfile

import grpc

from client_harness import BUILD, ROOT, Daemon, eq, generate, has, outrider, run_tests
from stubs import pb, rpc

RATES = [0.8, 0.5, 0.65]
ON = ["--synthetic-acceptance", ".80,.50,.65", "--speculation", "16"]
WORD = b"SYNTHETIC ACCEPTANCE (0.8, 0.5, 0.65 by depth): guesses are kept by a coin, the text is not the target's"
QUESTION = "What is the sum of 626 and 807?"


def refused(code, call, *args):
    try:
        list(call(*args))
    except grpc.RpcError as e:
        eq(e.code(), code, e.details())
        return e.details()
    raise AssertionError(f"not refused; want {code}")


def asking(**speculation):
    return pb.GenerateRequest(text="one two", stopping=pb.Stopping(max_tokens=8, ignore_eos=True), speculation=pb.Speculation(**speculation))


def test_refused_unless_started_with_it(_):
    with Daemon() as d, grpc.insecure_channel(d.address) as channel:
        stub = rpc.InferenceStub(channel)
        has(refused(grpc.StatusCode.FAILED_PRECONDITION, stub.Generate, asking(synthetic_acceptance=RATES)),
            "this daemon was not started with --synthetic-acceptance")
        model = stub.GetModel(pb.GetModelRequest())
        eq(list(model.defaults.synthetic_acceptance), [])
        assert "synthetic" not in model.fingerprint
        for out in ([generate(d, "--json", QUESTION), outrider("stats", "--json", "--server", d.address), outrider("stats", "--server", d.address),
                     outrider("model", "--json", "--server", d.address), outrider("model", "--server", d.address)]):
            eq(out[0], 0, out[2])
            assert b"ynthetic" not in out[1] + out[2] and b"SYNTHETIC" not in out[1] + out[2], out
        assert "synthetic" not in d.log.read_text()


def test_refused_in_other_rates_or_without_a_draft(_):
    with Daemon(*ON) as d, grpc.insecure_channel(d.address) as channel:
        stub = rpc.InferenceStub(channel)
        has(refused(grpc.StatusCode.FAILED_PRECONDITION, stub.Generate, asking(synthetic_acceptance=[0.9])), "other rates of synthetic acceptance")
        eq(len([i for e in stub.Generate(asking(synthetic_acceptance=RATES)) for i in e.delta.token_ids]), 8)
    p = subprocess.run([BUILD / "outriderd", "--target", ROOT / "assets/tiny/target", "--synthetic-acceptance", ".8"], capture_output=True, timeout=60)
    eq(p.returncode, 2)
    has(p.stderr, b"--synthetic-acceptance needs --draft")


def test_a_request_for_the_target_itself_is_refused(_):
    with Daemon() as d:
        own = json.loads(outrider("model", "--json", "--server", d.address)[1])["fingerprint"]
    with Daemon(*ON) as d:
        rc, _, err = generate(d, "--fingerprint", own, QUESTION)
        eq(rc, 3)
        has(err, b"its text would differ")
        other = json.loads(outrider("model", "--json", "--server", d.address)[1])["fingerprint"]
        assert re.fullmatch(re.escape(own) + "-synthetic-[0-9a-f]{8}", other), (own, other)
        rc, _, err = generate(d, "--seed", "1", "--fingerprint", other, "--resume-tokens", "5", QUESTION)
        eq(rc, 3)
        has(err, b"none can be continued word for word")
        rc, out, err = generate(d, "--break-after", "3", QUESTION)
        eq(rc, 0, err)
        assert b"to continue" not in err, err


def test_said_by_the_daemon(_):
    with Daemon(*ON) as d, grpc.insecure_channel(d.address) as channel:
        stub = rpc.InferenceStub(channel)
        log = d.log.read_text()
        has(log, " warn synthetic acceptance 0.8,0.5,0.65: guesses are kept by a coin, and answers are not the target's")
        near = [round(x, 6) for x in stub.GetModel(pb.GetModelRequest()).defaults.synthetic_acceptance]
        eq(near, RATES)
        events = list(stub.Generate(asking()))
        eq([round(x, 6) for x in events[0].begin.resolved.synthetic_acceptance], RATES)
        has(events[0].begin.fingerprint, "-synthetic-")
        assert events[-1].end.speculation.synthetic
        eq([round(x, 6) for x in stub.GetStats(pb.GetStatsRequest()).synthetic_acceptance], RATES)


def test_said_by_the_client(_):
    with Daemon(*ON) as d:
        rc, out, err = outrider("model", "--server", d.address)
        assert rc == 0 and out.startswith(WORD), out
        eq(json.loads(outrider("model", "--json", "--server", d.address)[1])["synthetic_acceptance"], RATES)
        rc, out, err = generate(d, QUESTION)
        eq(rc, 0)
        has(err, b"outrider generate: " + WORD)
        rc, out, err = generate(d, "--json", QUESTION)
        j = json.loads(out)
        eq((j["resolved"]["synthetic_acceptance"], j["speculation"]["synthetic"]), (RATES, True))
        has(err, WORD)
        rc, out, err = generate(d, "--json-stream", QUESTION)
        lines = [json.loads(l) for l in out.splitlines()]
        eq((lines[0]["resolved"]["synthetic_acceptance"], lines[-1]["speculation"]["synthetic"]), (RATES, True))
        rc, out, err = outrider("chat", "--server", d.address, stdin=f"{QUESTION}\n{QUESTION}\n".encode())
        eq((rc, err.count(b"outrider chat: " + WORD)), (0, 1), err)
        assert outrider("stats", "--server", d.address)[1].startswith(WORD)
        eq(json.loads(outrider("stats", "--json", "--server", d.address)[1])["synthetic_acceptance"], RATES)


def test_said_by_the_benchmark_which_measures_the_rates(_):
    with Daemon(*ON) as d, tempfile.TemporaryDirectory() as t:
        page, each = os.path.join(t, "page"), os.path.join(t, "each")
        args = ["bench", "--server", d.address, "--synthetic", "8,200", "--requests", "20", "--concurrency", "4"]
        rc, out, err = outrider(*args, "--html", page, "--per-request", each)
        eq(rc, 0, err)
        assert out.startswith(WORD), out
        with open(page, "rb") as f:
            has(f.read(), b"<p><strong>" + WORD)
        with open(each) as f:
            assert all(json.loads(line)["synthetic"] for line in f)
        rc, out, err = outrider(*args, "--json")
        j = json.loads(out)
        eq(j["synthetic_acceptance"], RATES)
        has(j["warning"], "not the target's")
        has(j["model"]["fingerprint"], "-synthetic-")
        run = j["runs"][0]
        kept = [d["accepted"] for d in run["acceptance_by_depth"]]
        for depth, rate in enumerate(RATES):  # 4000 tokens are over a thousand passes
            trials = kept[depth - 1] if depth else run["passes"] - 20
            got, limit = kept[depth] / trials, 4 * (rate * (1 - rate) / trials) ** 0.5
            assert abs(got - rate) < limit, f"depth {depth + 1}: {got:.3f} of {trials}, expected {rate} +- {limit:.3f}"
        eq(sum(kept[len(RATES):]), 0, "kept deeper than the rates say")


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
