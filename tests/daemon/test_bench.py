#!/usr/bin/python3
"""`outrider bench` against a fake server and against the real daemon with the tiny pair.  Usage: see client_harness.py."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET

import grpc

import fake_server as fake
from client_harness import OUTRIDER, PATIENCE, Daemon, Terminal, eq, has, outrider, run_tests
from fake_server import RawServer
from stubs import pb

LATENCIES = "ttft_ms tpot_ms chunk_gap_ms e2e_ms send_late_ms".split()


class Dir:
    """A directory of a test's own; file(name, text) writes one there, path(name) names one."""

    def __enter__(self):
        self.dir = tempfile.TemporaryDirectory(prefix="outrider-bench-")
        return self

    def __exit__(self, *_):
        self.dir.cleanup()

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def file(self, name, text):
        pathlib.Path(self.path(name)).write_text(text)
        return self.path(name)


def bench(server, *args):
    return outrider("bench", "--server", server.address, *args)


def measured(server, *args, status=0):
    """The JSON of a run, checked for what holds of every run."""
    rc, out, err = bench(server, "--json", *args)
    eq(rc, status, err)
    eq(out.count(b"\n"), 1)
    j = json.loads(out)
    check_schema(j)
    return j


def check_schema(j):
    eq(set(j), set("outrider_bench date server model load interrupted runs pairs client".split()))
    eq(j["outrider_bench"], 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", j["date"]), j["date"]
    eq(set(j["model"]), set("name fingerprint device version draft".split()))
    eq(set(j["client"]), set("wall_s cpu_s cpu_share busy_share turns turn_ms_max waited_s".split()))
    for run in j["runs"]:
        check_run(run, j["load"])


def check_run(r, load):
    eq(set(r), set("speculation duration_s requests errors first_error finish prompt_tokens cached_tokens output_tokens chunks passes drafted accepted preemptions "
                   "tokens_per_s requests_per_s tokens_per_pass tokens_per_chunk acceptance_by_depth goodput over_time".split() + LATENCIES))
    n = r["requests"]
    eq(sum(n.values()), load["requests"], "requests by state")
    eq(sum(r["errors"].values()), n["failed"], "errors by status")
    eq(sum(r["finish"].values()), n["ok"], "finish")
    eq(r["first_error"] is None, n["failed"] == 0)
    for name in LATENCIES:
        s = r[name]
        eq(set(s), set("n mean min p50 p90 p99 max".split()))
        if s["n"] == 0:
            eq([v for k, v in s.items() if k != "n"], [None] * 6)
            continue
        assert 0 <= s["min"] <= s["p50"] <= s["p90"] <= s["p99"] <= s["max"] and s["min"] <= s["mean"] <= s["max"], (name, s)
    eq(r["send_late_ms"]["n"], n["ok"])
    if n["ok"] == load["requests"]:
        eq(r["chunk_gap_ms"]["n"], r["chunks"] - n["ok"], "a gap less than chunks, an answer")
    close(r["tokens_per_s"] * r["duration_s"], r["output_tokens"])
    close(r["requests_per_s"] * r["duration_s"], n["ok"])
    close(sum(r["over_time"]["tokens"]), r["output_tokens"])
    if r["passes"]:
        close(r["tokens_per_pass"], 1 + r["accepted"] / r["passes"])
    eq(sum(d["accepted"] for d in r["acceptance_by_depth"]), r["accepted"] if r["acceptance_by_depth"] and r["passes"] else 0, "accepted by depth")


def close(got, want):
    assert abs(got - want) <= 1e-6 * max(1, abs(want)), f"got {got}, expected {want}"


def deltas(prompt, chunk=3, thinking=True):
    """Tokens and chunks of the fake's answer."""
    n = len(fake.tokens_of(prompt, thinking))
    return n, -(-n // chunk)


# --- against the fake: exactly known answers ---

def consistent(s):
    """The fake's figures by depth do not add up to what it says was accepted; here they do."""
    whole = s.answer

    def answer(request, context, prompt, thinking, *rest):
        for event in whole(request, context, prompt, thinking, *rest):
            if event.__class__ is pb.Event and event.HasField("end"):
                event.end.speculation.accepted_by_depth[:] = [18, 12]
                event.end.speculation.drafted_by_depth[:] = [40, 20]
            yield event

    s.answer = answer
    return s


def test_counts_of_a_closed_loop(s):
    with Dir() as d:
        data = d.file("set.jsonl", '{"prompt": "hello"}\n\n{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 77}\n')
        j = measured(consistent(s), "--concurrency", "3", "--requests", "7", "--warmup", "2", "--dataset", data, "--seed", "40", "--per-request", d.path("r.jsonl"))
        rows = [json.loads(line) for line in open(d.path("r.jsonl"))]
    r = j["runs"][0]
    eq(j["load"], {"loop": "closed", "concurrency": 3, "connections": 3, "requests": 7, "warmup": 2, "dataset": data, "seed": "40"})
    hello, hi = deltas("hello"), deltas("hi")
    eq((r["requests"]["ok"], r["output_tokens"], r["chunks"]), (7, 4 * hello[0] + 3 * hi[0], 4 * hello[1] + 3 * hi[1]))
    eq((r["prompt_tokens"], r["cached_tokens"], r["passes"], r["drafted"], r["accepted"]), (49, 14, 70, 420, 210))
    eq((r["tokens_per_pass"], r["finish"]), (4.0, {"stop": 7, "length": 0}))
    eq(r["acceptance_by_depth"], [{"depth": 1, "drafted": 280, "accepted": 126, "per_drafted": 0.45, "per_pass": 1.8},
                                  {"depth": 2, "drafted": 140, "accepted": 84, "per_drafted": 0.6, "per_pass": 1.2}])
    eq(j["pairs"], None)
    chats = [q for m, q, _, _ in s.requests if m == "Chat"]
    eq(len(chats), 9)
    eq(sorted(q.sampling.seed for q in chats), list(range(40, 49)))
    for q in chats:
        second = (q.sampling.seed - 40) % 2
        eq(q.messages[0].content, "hi" if second else "hello")
        eq(q.stopping.max_tokens if q.stopping.HasField("max_tokens") else None, 77 if second else None)
    check_rows(rows, r, 40)


def check_rows(rows, run, seed):
    """The file of requests says the same as the report."""
    n = run["requests"]
    eq(len(rows), n["ok"] + n["failed"] + n["interrupted"])
    ok = [q for q in rows if q["state"] == "ok"]
    eq(len(ok), n["ok"])
    eq(sum(q["output_tokens"] for q in rows), run["output_tokens"])
    eq(sum(len(q["chunks"]) for q in rows), run["chunks"])
    for q in rows:
        eq(q["seed"], str(seed + q["request"]))
        eq(sum(c[1] for c in q["chunks"]), q["output_tokens"])
        assert q["due_ms"] <= q["sent_ms"] <= q["end_ms"], q
        assert [c[0] for c in q["chunks"]] == sorted(c[0] for c in q["chunks"])
    for q in ok:
        first, last = q["chunks"][0][0], q["chunks"][-1][0]
        near(q["ttft_ms"], first - q["due_ms"])
        near(q["e2e_ms"], last - q["due_ms"])
        if q["output_tokens"] > 1:
            near(q["tpot_ms"], (last - first) / (q["output_tokens"] - 1))
    for name in "ttft_ms", "tpot_ms", "e2e_ms":
        values = sorted(q[name] for q in ok if q[name] is not None)
        if values:
            near(run[name]["p50"], values[-(-len(values) // 2) - 1])
            near(run[name]["max"], values[-1])


def near(got, want):
    """To the digits that JSON has."""
    assert abs(got - want) <= 1e-3 + 1e-6 * abs(want), f"got {got}, expected {want}"


def test_flags_reach_the_server(s):
    eq(bench(s, "--requests", "1", "--synthetic", "5,6", "--temperature", "0", "--top-k", "3", "--stop-token", "9", "--speculation", "12", "--deadline", "20",
             "--priority", "5", "--logprobs", "2", "--choices", "a", "--presence-penalty", "0.5")[0], 0)
    method, r, _, deadline = s.requests[-1]
    ids = list(r.tokens.ids)
    eq((method, len(ids)), ("Generate", 5))
    assert all(0 <= i < 905 for i in ids), ids
    want = pb.GenerateRequest(tokens=pb.TokenIds(ids=ids), sampling=pb.Sampling(temperature=0, top_k=3, seed=1, presence_penalty=0.5, logprobs=pb.Logprobs(top=2),
                                                                                     constraint=pb.Constraint(choices=pb.Choices(choice=["a"]))), priority=5,
                              stopping=pb.Stopping(max_tokens=6, ignore_eos=True, stop_token_ids=[9]), thinking=pb.Thinking(),
                              speculation=pb.Speculation(mode=pb.Speculation.NODES, nodes=12))
    eq(r, want)
    assert 10 < deadline <= 20, deadline
    with Dir() as d:
        eq(bench(s, "--dataset", d.file("a", '{"prompt": "<|im_start|>"}'), "--raw")[0], 0)
        eq((s.requests[-1][0], s.requests[-1][1].text), ("Generate", "<|im_start|>"))
        eq(bench(s, "--dataset", d.path("a"), "--system", "Be brief.", "--no-think")[0], 0)
        r = s.requests[-1][1]
        eq(([(m.role, m.content) for m in r.messages], r.thinking.enabled), ([("system", "Be brief."), ("user", "<|im_start|>")], False))


def test_synthetic_prompts_are_made_of_the_seed(s):
    def prompts(seed):
        s.requests.clear()
        eq(bench(s, "--requests", "3", "--synthetic", "8,2", "--seed", str(seed))[0], 0)
        return [list(q.tokens.ids) for m, q, _, _ in s.requests if m == "Generate"]

    one = prompts(1)
    eq(len(set(map(tuple, one))), 3)
    eq(prompts(1), one)
    assert prompts(2) != one
    eq(one[0], [11446999876264359965 % 905] + one[0][1:])  # as tests/unit/bench.c pins it


def test_errors_by_status(s):
    with Dir() as d:
        data = d.file("set", '{"prompt": "hello"}\n{"prompt": "refuse RESOURCE_EXHAUSTED the queue is full"}\n{"prompt": "late broken"}\n{"prompt": "garbage"}\n')
        j = measured(consistent(s), "--dataset", data, "--requests", "8", "--per-request", d.path("r"), "--html", d.path("h"), status=1)
        rows = [json.loads(line) for line in open(d.path("r"))]
        has(ET.parse(d.path("h")).getroot().find(".//{*}h2[.='Errors, auto']").text, "Errors")
    r = j["runs"][0]
    eq((r["requests"], r["errors"]), ({"ok": 2, "failed": 6, "interrupted": 0, "not_sent": 0}, {"RESOURCE_EXHAUSTED": 2, "INTERNAL": 4}))
    has(r["first_error"], "the queue is full")
    eq(r["output_tokens"], 2 * deltas("hello")[0] + 2 * 3, "what came before the break counts")
    check_rows(rows, r, 1)
    eq([(q["state"], q["status"]) for q in rows[:3]], [("ok", "OK"), ("failed", "RESOURCE_EXHAUSTED"), ("failed", "INTERNAL")])


def test_deadline(s):
    with Dir() as d:
        data = d.file("set", '{"prompt": "hello"}\n' + json.dumps({"prompt": "slow " + "x" * 4000}) + "\n")
        j = measured(consistent(s), "--dataset", data, "--deadline", "3", status=1)
    eq((j["runs"][0]["requests"]["ok"], j["runs"][0]["errors"]), (1, {"DEADLINE_EXCEEDED": 1}))
    assert 3 <= j["runs"][0]["duration_s"] < PATIENCE


def test_goodbyes_are_answered_with_a_new_connection(_):
    """A server that lets no connection grow old: every request is sent, on one or another."""
    plain = grpc.server
    grpc.server = lambda pool: plain(pool, options=[("grpc.max_connection_age_ms", 300)])
    try:
        s = consistent(fake.FakeServer("127.0.0.1:0"))
    finally:
        grpc.server = plain
    with Dir() as d:
        j = measured(s, "--dataset", d.file("set", '{"prompt": "slow down"}'), "--requests", "12", "--concurrency", "2")
    s.stop()
    eq(j["runs"][0]["requests"]["ok"], 12)
    assert j["runs"][0]["duration_s"] > 1, "too short to see a goodbye"


def test_nothing_complete_is_a_refusal(s):
    with Dir() as d:
        rc, out, err = bench(s, "--dataset", d.file("set", '{"prompt": "refuse INVALID_ARGUMENT not that"}'), "--requests", "3")
    eq((rc, err), (3, b""))
    has(out, b"3 INVALID_ARGUMENT")
    has(out, b"not that")


def test_open_loop_counts_from_the_schedule(s):
    """40 requests a second to a server with 8 hands that takes 0.2 s and more for each: they queue, and the latency says so."""
    with Dir() as d:
        data = d.file("set", json.dumps({"prompt": "slow " + "x" * 60}))
        j = measured(consistent(s), "--dataset", data, "--rate", "40", "--poisson", "--seed", "3", "--requests", "40", "--no-think", "--per-request", d.path("r"))
        rows = [json.loads(line) for line in open(d.path("r"))]
    eq({k: j["load"][k] for k in ("loop", "rate", "poisson", "connections")}, {"loop": "open", "rate": 40.0, "poisson": True, "connections": 16})
    check_rows(rows, j["runs"][0], 3)
    due = [q["due_ms"] for q in rows]
    eq((due[0], due), (0, sorted(due)))
    gaps = {round(b - a, 3) for a, b in zip(due, due[1:])}
    assert len(gaps) > 30, "Poisson gaps differ"
    early, late = (sum(q["ttft_ms"] for q in part) for part in (rows[:8], rows[-8:]))
    assert late > early + 8 * 200, (early, late)


def test_even_rate_and_one_connection(s):
    with Dir() as d:
        eq(bench(s, "--synthetic", "4,4", "--rate", "50", "--requests", "12", "--connections", "1", "--per-request", d.path("r"))[0], 0)
        due = [json.loads(line)["due_ms"] for line in open(d.path("r"))]
    eq([round(t, 6) for t in due], [20.0 * i for i in range(12)])


def test_goodput(s):
    def good(slo):
        return measured(consistent(s), "--synthetic", "4,4", "--requests", "4", "--slo", slo)["runs"][0]["goodput"]

    g = good("ttft:60000,tpot:60000")
    eq((g["ttft_ms"], g["tpot_ms"], g["e2e_ms"], g["requests"], g["share"]), (60000, 60000, None, 4, 1))
    g = good("e2e:0.000001")
    eq((g["requests"], g["requests_per_s"], g["share"]), (0, 0, 0))
    eq(measured(s, "--requests", "1")["runs"][0]["goodput"], None)


def test_page(s):
    with Dir() as d:
        data = d.file('a<b>&"\x01.jsonl', '{"prompt": "hello"}')
        eq(bench(s, "--dataset", data, "--requests", "4", "--html", d.path("p.html"))[0], 0)
        text = open(d.path("p.html")).read()
    page = ET.fromstring(text)
    eq(len(page.findall(".//{*}svg")), 5)
    for foreign in "src=", "href=", "url(", "@import", "<script", "\x1b":
        assert foreign not in text, foreign
    eq(re.findall(r"https?://[^\"' ]*", text), ["http://www.w3.org/1999/xhtml"])
    has("".join(page.itertext()), 'a<b>&"\ufffd.jsonl')
    has(text, "prefers-color-scheme:dark")


def test_text_and_terminal(s):
    rc, out, err = bench(s, "--requests", "2", "--slo", "ttft:9999")
    eq((rc, err), (0, b""))
    for part in "speculation auto: 2 complete", "tokens a pass", "TTFT", "TPOT", "chunk gap", "end to end", "goodput", "of a core":
        has(out.decode(), part)
    assert b"sent late" not in out, "a closed loop has no schedule"
    with Dir() as d:
        t = Terminal("bench", "--server", s.address, "--dataset", d.file("set", json.dumps({"prompt": "slow " + "x" * 200})), "--requests", "1", "--json")
        t.expect(b"auto: 0 of 1 done, 1 running, ")
        eq(t.wait(), 0)
        has(t.out, b'{"outrider_bench":1')


def test_interrupt_reports_what_there_is(s):
    with Dir() as d:
        data = d.file("set", '{"prompt": "hello"}\n' + json.dumps({"prompt": "slow " + "x" * 4000}) + "\n")
        s.cancelled.clear()
        p = subprocess.Popen([OUTRIDER, "bench", "--server", s.address, "--dataset", data, "--requests", "6", "--json", "--per-request", d.path("r"), "--html", d.path("h")],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        end = time.monotonic() + PATIENCE
        while sum(m == "Chat" for m, *_ in s.requests) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.3)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=PATIENCE)
        eq((p.returncode, err), (130, b""))
        j = json.loads(out)
        rows = [json.loads(line) for line in open(d.path("r"))]
        ET.parse(d.path("h"))
    eq((j["interrupted"], j["runs"][0]["requests"]), (True, {"ok": 1, "failed": 0, "interrupted": 1, "not_sent": 4}))
    eq([(q["state"], q["status"]) for q in rows], [("ok", "OK"), ("interrupted", None)])
    assert s.cancelled.wait(PATIENCE), "the server did not see the cancel"


# --- what is refused ---

def test_bad_usage(s):
    with Dir() as d:
        for args, part in ((["--concurrency", "0"], "--concurrency"), (["--concurrency", "2", "--rate", "3"], "not both"), (["--rate", "-1"], "--rate"), (["--rate", "x"], "--rate"),
                           (["--poisson"], "--poisson"), (["--synthetic", "5"], "--synthetic"), (["--synthetic", "5,0"], "--synthetic"), (["--synthetic", "5,6x"], "--synthetic"),
                           (["--slo", "ttft"], "--slo"), (["--slo", "ttft:1,ttft:2"], "--slo"), (["--slo", "gap:1"], "--slo"), (["--slo", "ttft:1,"], "--slo"), (["--slo", "ttft:0"], "--slo"),
                           (["--speculation", "some"], "both"), (["--speculation", "65"], "both"), (["--requests", "0"], "--requests"), (["--connections", "0"], "--connections"), (["x"], "no argument"),
                           (["--raw"], "--raw"), (["--system", "x"], "--system"), (["--nonsense"], "--nonsense"), (["--dataset", "x", "--synthetic", "1,1"], "not both"),
                           (["--synthetic", "2000,49"], "2049 tokens"), (["--max-tokens", "5"], "--max-tokens"), (["--n", "2"], "--n")):
            rc, out, err = bench(s, *args)
            eq((rc, out), (2, b""), args)
            has(err.decode(), part)
        eq(sum(m in ("Chat", "Generate") for m, *_ in s.requests), 0)
        rc, out, err = bench(s, "--dataset", d.file("set", '{"prompt": "a"}\n{"prompt": "b"}\n{"promt": "c"}\n'))
        eq((rc, out), (2, b""))
        has(err.decode(), f"{d.path('set')} line 3: ")
        for args in ["--dataset", d.path("none")], ["--html", d.path("no/such")], ["--per-request", d.path("no/such")]:
            rc, out, err = bench(s, *args)
            eq((rc, out), (1, b""), args)
            has(err.decode(), "No such file or directory")


def test_help(_):
    rc, out, _ = outrider("bench", "--help")
    eq(rc, 0)
    for flag in "concurrency rate poisson requests warmup connections synthetic dataset raw speculation seed slo json per-request html temperature deadline server".split():
        has(out.decode(), f"--{flag} ")


def test_no_server(s):
    s.stop()
    rc, out, err = bench(s)
    eq((rc, out), (3, b""))
    has(err, b"no outriderd listens on")
    raw = RawServer([b"HTTP/1.1 400 Bad Request\r\n\r\n"])
    rc, out, err = bench(raw)
    raw.stop()
    eq((rc, out), (3, b""))
    has(err, b"HTTP/1")


def test_server_that_goes_away(_):
    with Daemon("--isa", "twin", "--threads", "1") as d:
        t = Terminal("bench", "--server", d.address, "--synthetic", "16,1900", "--concurrency", "2", "--requests", "6", "--json")
        t.expect(b"0 of 6 done, 2 running")
        d.kill()
        eq(t.wait(), 3)
    has(t.out, b"outrider bench: no outriderd listens on")
    j = json.loads(re.search(rb"\{.outrider_bench.*\}", t.out).group())
    check_schema(j)
    n = j["runs"][0]["requests"]
    eq((n["ok"], n["interrupted"], j["runs"][0]["errors"]), (0, 0, {"UNAVAILABLE": n["failed"]}))
    assert n["failed"] >= 2 and n["not_sent"] >= 1, n  # a third may have been sent before the second connection was seen to break


# --- against the daemon ---

def test_both_modes_of_the_daemon(_):
    prompts = ["What is the sum of 626 and 807?", "What is 44 times 4?", "What is the sum of 12 and 19?", "What is 7 times 8?"]
    with Daemon("--speculation", "8") as daemon, Dir() as d:  # trees of a fixed size: on a busy machine few may pay
        data = d.file("set", "".join(json.dumps({"prompt": q}) + "\n" for q in prompts))
        j = measured(daemon, "--dataset", data, "--speculation", "both", "--requests", "8", "--concurrency", "2", "--temperature", "0.7", "--per-request", d.path("r"), "--html", d.path("h"))
        rows = [json.loads(line) for line in open(d.path("r"))]
        page = ET.parse(d.path("h")).getroot()
    auto, off = j["runs"]
    eq((auto["speculation"], off["speculation"]), ("auto", "off"))
    for run in auto, off:
        eq(run["requests"]["ok"], 8)
        check_rows([q for q in rows if q["speculation"] == run["speculation"]], run, 1)
    eq((auto["output_tokens"], auto["prompt_tokens"], auto["finish"]), (off["output_tokens"], off["prompt_tokens"], off["finish"]))
    assert auto["tokens_per_pass"] > 2 and auto["acceptance_by_depth"], auto
    eq((off["tokens_per_pass"], off["drafted"], off["acceptance_by_depth"]), (1.0, 0, []))
    pairs = j["pairs"]
    eq((pairs["mode"], pairs["against"], pairs["answers_compared"], pairs["answers_differ"]), ("auto", "off", 8, 0))
    eq((pairs["tokens_per_s"]["n"], pairs["e2e"]["n"], pairs["ttft"]["n"]), (2, 8, 8))
    for name in "tokens_per_s", "ttft", "tpot", "e2e":
        assert 0 < pairs[name]["min"] <= pairs[name]["median"] <= pairs[name]["max"], pairs
    has("".join(page.itertext()), "auto against off")


def test_loads_of_the_daemon(_):
    with Daemon() as daemon:
        for args in ["--concurrency", "8"], ["--concurrency", "8", "--connections", "2"], ["--rate", "30", "--poisson"]:
            j = measured(daemon, "--synthetic", "24,12", "--requests", "16", "--warmup", "2", *args)
            r = j["runs"][0]
            eq((r["requests"]["ok"], r["output_tokens"], r["prompt_tokens"], r["finish"]["length"]), (16, 16 * 12, 16 * 24, 16), args)
        j = measured(daemon, "--synthetic", "24,12", "--requests", "4", "--speculation", "both", "--rate", "30")
        eq((j["pairs"]["answers_compared"], j["pairs"]["answers_differ"]), (4, 0))


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
