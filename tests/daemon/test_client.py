#!/usr/bin/python3
"""`outrider generate`, `health` and `model` with a server that behaves.  Usage: see client_harness.py."""
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import fake_server as fake
from client_harness import OUTRIDER, PATIENCE, eq, generate, has, outrider, run_tests, text_of
from fake_server import FakeServer, tokens_of
from stubs import pb


def test_pipe_gets_exactly_the_text(s):
    rc, out, err = generate(s, "hello")
    eq((rc, out.decode(), err), (0, text_of("hello", 2), b""))


def test_prompt_from_stdin(s):
    for args in [], ["-"]:
        rc, out, _ = generate(s, *args, stdin="gr\u00fc\u00df dich".encode())
        eq((rc, out.decode()), (0, text_of("gr\u00fc\u00df dich", 2)))


def test_show_thinking(s):
    rc, out, _ = generate(s, "--show-thinking", "hello")
    eq((rc, out.decode()), (0, "<think>\n" + text_of("hello", 1) + "\n</think>\n\n" + text_of("hello", 2)))


def test_json(s):
    rc, out, _ = generate(s, "--json", "hello")
    j = json.loads(out)
    eq(rc, 0)
    eq(j["text"], text_of("hello", 2))
    eq(j["reasoning"], text_of("hello", 1))
    eq(j["token_ids"], [t[0] for t in tokens_of("hello", True)])
    eq((j["finish"], j["matched"], j["thinking_cut"]), ("stop", {"eos_token_id": 898}, False))
    eq((j["seed"], j["fingerprint"], j["request_id"]), (str(2**64 - 5), fake.FINGERPRINT, "r1"))
    eq(j["usage"], {"prompt_tokens": 7, "completion_tokens": 40, "reasoning_tokens": 9, "cached_tokens": 2})
    eq(j["timings"], {"queue_ms": 0.5, "prefill_ms": 2.0, "decode_ms": 20.0, "first_token_ms": 3.25})
    eq(j["speculation"], {"passes": 10, "drafted": 60, "accepted": 30, "drafted_by_depth": [10, 10], "accepted_by_depth": [9, 8], "preemptions": 0})
    assert "error" not in j


def test_json_floats_are_short(s):
    _, out, _ = generate(s, "--json", "--temperature", "0.95", "hello")
    eq(json.loads(out)["resolved"]["temperature"], 0.95)


def test_json_stream(s):
    rc, out, _ = generate(s, "--json-stream", "hello")
    events = [json.loads(line) for line in out.splitlines()]
    eq(rc, 0)
    eq([e["event"] for e in events], ["begin"] + ["delta"] * (len(events) - 2) + ["end"])
    eq("".join(e["content"] for e in events[1:-1]), text_of("hello", 2))
    eq(sum((e["token_ids"] for e in events[1:-1]), []), [t[0] for t in tokens_of("hello", True)])
    eq((events[0]["seed"], events[0]["prompt_tokens"], events[-1]["finish"]), (str(2**64 - 5), 7, "stop"))


def test_unset_flags_stay_unset(s):
    generate(s, "hello")
    method, r, meta, deadline = s.requests[-1]
    eq(method, "Chat")
    assert deadline > 1e9, "a deadline was sent"
    eq([(m.role, m.content) for m in r.messages], [("user", "hello")])
    for part, names in ("sampling", "temperature top_k top_p min_p seed min_tokens"), ("stopping", "max_tokens"), ("thinking", "enabled budget"):
        for name in names.split():
            assert not getattr(r, part).HasField(name), name
    assert not r.HasField("resume") and r.fingerprint == "" and r.speculation.mode == pb.Speculation.AUTO


def test_flags_reach_the_server(s):
    rc, _, err = generate(s, "--system", "Be brief.", "--temperature", "0", "--top-k", "0", "--top-p", "0.5", "--min-p", "0.25", "--seed", str(2**64 - 1),
                          "--max-tokens", "9", "--min-tokens", "0", "--stop-token", "3,4", "--stop-token", "5", "--ignore-eos", "--no-think", "--budget", "0",
                          "--speculation", "16", "--fingerprint", fake.FINGERPRINT, "--deadline", "20", "hello")
    eq((rc, err), (0, b""))
    _, r, _, deadline = s.requests[-1]
    want = pb.ChatRequest(messages=[pb.Message(role="system", content="Be brief."), pb.Message(role="user", content="hello")], fingerprint=fake.FINGERPRINT,
                          sampling=pb.Sampling(temperature=0, top_k=0, top_p=0.5, min_p=0.25, seed=2**64 - 1, min_tokens=0),
                          stopping=pb.Stopping(max_tokens=9, stop_token_ids=[3, 4, 5], ignore_eos=True), thinking=pb.Thinking(enabled=False, budget=0),
                          speculation=pb.Speculation(mode=pb.Speculation.NODES, nodes=16))
    eq(r, want)
    assert 15 < deadline <= 20, deadline
    generate(s, "--think", "--speculation", "off", "--budget", "-1", "hello")
    r = s.requests[-1][1]
    eq((r.thinking.enabled, r.thinking.budget, r.speculation.mode), (True, -1, pb.Speculation.OFF))


def test_raw(s):
    rc, out, _ = generate(s, "--raw", "<|im_start|>")
    eq((rc, out.decode()), (0, "".join(t[2] for t in tokens_of("<|im_start|>", False))))
    generate(s, "--prompt-tokens", "5,6,7")
    method, r, _, _ = s.requests[-1]
    eq((method, r.WhichOneof("prompt"), list(r.tokens.ids)), ("Generate", "tokens", [5, 6, 7]))


def test_break_and_resume_give_the_whole(s):
    whole = [t[0] for t in tokens_of("hello", True)]
    for n in 1, 10, 25, 31:
        rc, first, err = generate(s, "--break-after", str(n), "--json", "hello")
        j = json.loads(first)
        eq(rc, 0)
        eq(j["finish"], "none")
        assert n <= len(j["token_ids"]) < n + 3, j["token_ids"]
        flags = re.search(rb"add: (.*)", err).group(1).decode().replace("'", "").split()
        rc, second, _ = generate(s, "--json", *flags, "hello")
        k = json.loads(second)
        eq(rc, 0)
        eq(j["token_ids"] + k["token_ids"], whole)
        eq(j["text"] + k["text"], text_of("hello", 2))
        eq(j["reasoning"] + k["reasoning"], text_of("hello", 1))
        r = s.requests[-1][1]
        eq((r.sampling.seed, r.resume.fingerprint, list(r.resume.tokens)), (2**64 - 5, fake.FINGERPRINT, j["token_ids"]))


def test_broken_text_concatenates(s):
    _, first, err = generate(s, "--break-after", "40", "hello")
    flags = re.search(rb"add: (.*)", err).group(1).decode().replace("'", "").split()
    _, second, _ = generate(s, *flags, "hello")
    eq((first + second).decode(), text_of("hello", 2))


def test_break_resets_the_stream(s):
    s.cancelled.clear()
    rc, _, _ = generate(s, "--break-after", "4", "slow " + "x" * 2000)
    eq(rc, 0)
    assert s.cancelled.wait(PATIENCE), "the server did not see the cancel"


def test_resume_on_another_target_is_refused(s):
    rc, out, err = generate(s, "--resume-tokens", "1,2", "--seed", "1", "--fingerprint", "other", "hello")
    eq((rc, out), (3, b""))
    has(err, b"FAILED_PRECONDITION: this daemon is " + fake.FINGERPRINT.encode())


def test_interrupt(s):
    s.cancelled.clear()
    p = subprocess.Popen([OUTRIDER, "generate", "--server", s.address, "--show-thinking", "slow " + "x" * 2000], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = os.read(p.stdout.fileno(), 100)
    assert first, "nothing streamed"
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=PATIENCE)
    eq(p.returncode, 130)
    has(err, b"--resume-tokens 1001,76")
    assert s.cancelled.wait(PATIENCE), "the server did not see the cancel"


def test_streams_as_it_comes(s):
    p = subprocess.Popen([OUTRIDER, "generate", "--server", s.address, "--no-think", "slow hello"], stdout=subprocess.PIPE)
    times = []
    while os.read(p.stdout.fileno(), 4096):
        times.append(time.monotonic())
    eq(p.wait(PATIENCE), 0)
    assert len(times) >= 5 and times[-1] - times[0] >= 0.06, f"{len(times)} writes within {times[-1] - times[0]:.3f} s"


def test_slow_reader_slows_the_server(s):
    n = 20000  # 2 MB: more than a pipe and the windows hold together
    p = subprocess.Popen([OUTRIDER, "generate", "--server", s.address, f"many {n}"], stdout=subprocess.PIPE)
    before = -1
    while s.given != before or s.given == 0:
        before = s.given
        time.sleep(0.5)
    assert s.given < n, "the server was never held back"
    out = p.stdout.read()
    eq(p.wait(PATIENCE), 0)
    eq(out, b"".join(b"%099d\n" % i for i in range(n)))


def test_large_message(s):
    rc, out, _ = generate(s, "huge 4000000")
    eq((rc, len(out)), (0, 4000000))
    rc, out, err = generate(s, "huge 4200000")
    eq((rc, out), (3, b""))
    has(err, b"at most 4194304 are taken")


def test_large_request(s):
    rc, out, _ = generate(s, "-", stdin=b"length " + b"y" * 1000000)
    eq((rc, out), (0, b"1000000"))
    rc, _, err = generate(s, stdin=b"y" * 3000000)
    eq(rc, 1)
    has(err, b"longer than 2097152 bytes")


def test_figures(s):
    rc, _, err = generate(s, "--stats", "cut")
    eq(rc, 0)
    eq(err, b"[40 tokens, 9 reasoning (cut), first after 3.2 ms, 2000.0 tokens/s, 4.00 tokens/pass, seed 18446744073709551611]\n")


def test_bad_usage(s):
    cases = [(["--seed", "x", "p"], b"--seed takes a whole number"), (["--seed", "-1", "p"], b"--seed takes"), (["--seed"], b"--seed needs an argument"),
             (["--temperature", "nan", "p"], b"--temperature takes a number"), (["--frob"], b"unknown or ambiguous option --frob"), (["a", "b"], b"one PROMPT"),
             (["--speculation", "65", "p"], b"from 1 to 64, not '65'"), (["--stop-token", "1,,2", "p"], b"commas between"), (["--budget", "-2", "p"], b"--budget"),
             (["--resume-tokens", "1", "p"], b"--fingerprint"), (["--json", "--json-stream", "p"], b"not both"), (["--raw", "--system", "s", "p"], b"--system"),
             (["--deadline", "0", "p"], b"--deadline"), (["--break-after", "0", "p"], b"--break-after"), (["--prompt-tokens", "1", "p"], b"not both"),
             (["--processed", "--json", "p"], b"give that too"), (["--json=x", "p"], b"--json takes no argument")]
    before = len(s.requests)
    for args, part in cases:
        rc, out, err = generate(s, *args)
        eq((rc, out), (2, b""), args)
        has(err, part)
    eq(len(s.requests), before)
    for stdin, part in (b"a\0b", b"NUL byte at offset 1"), (b"ab\xff", b"not UTF-8: byte 2"):
        rc, _, err = generate(s, stdin=stdin)
        eq(rc, 2)
        has(err, part)
    eq(outrider("frob")[0], 2)
    eq(outrider()[0], 2)


def test_bad_usage_of_the_others(_):
    for args, rc, part in (["chat", "--n", "2"], 2, b"goes on from one answer"), (["chat", "--logprobs", "2"], 2, b"generate --json"), \
            (["stats", "--watch", "2"], 2, b"written --watch=2"), (["health", "--server", "127.0.0.1:0"], 2, b"1 to 65535"), \
            (["health", "--server", "nobody.invalid:80"], 2, b"is its name right"), (["synth", "--like", "0.6b", "--layers", "0", "d"], 2, b"--layers takes a whole number from 1 to 1024, not '0'"), \
            (["synth", "--like", "0.6b", "--dtype", "q9", "d"], 2, b"bf16, fp8 or q8, not 'q9'"), (["synth", "--like", "0.6b", "--seed", "-1", "d"], 2, b"--seed takes"), \
            (["synth", "--frob"], 2, b"option --frob"), (["logits", "--frob"], 2, b"option --frob"), (["detokenize", "-1"], 2, b"option -1;"), (["inspect"], 2, b"no MODEL given"), \
            (["tokenize", "--model", "/nowhere", "x"], 1, b"--model /nowhere: No such file or directory; expected a directory with tokenizer.json"), (["inspect", "/"], 1, b"holds no config.json; expected"):
        got, _, err = outrider(*args)
        eq(got, rc, args)
        has(err, part)
    _, out, err = outrider("inspect", "synth:frob")
    eq((out, err.count(b"no such shape")), (b"synth:frob\n", 1), "one refusal is told once")


def test_what_cannot_be_written_is_told(s):
    for args in ["--help"], ["--version"], ["chat", "--help"], ["health", "--server", s.address], ["model", "--server", s.address]:
        with open("/dev/full", "wb") as full:
            p = subprocess.run([OUTRIDER, *args], stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE)
        eq(p.returncode, 1, args)
        has(p.stderr, b"cannot write to standard output")


def test_closed_descriptors(s):
    """The connection must not take the number of a closed stdout: the answer would be written into it."""
    shell = lambda command: subprocess.run(["sh", "-c", command, OUTRIDER, s.address], capture_output=True, timeout=PATIENCE)
    p = shell('"$0" generate --no-think --server "$1" hello >&-')
    eq(p.returncode, 1, p.stderr)
    has(p.stderr, b"cannot write the answer: Bad file descriptor")
    p = shell('"$0" chat --server "$1" <&-')
    eq(p.returncode, 1)
    has(p.stderr, b"cannot read a question: Bad file descriptor")
    p = shell('"$0" generate --no-think --server "$1" hello 2>&-')
    eq((p.returncode, p.stdout.decode()), (0, text_of("hello", 2)))


def test_help(_):
    rc, out, _ = outrider("--help")
    eq(rc, 0)
    eq(outrider("--version"), (0, b"outrider 0.1.0\n", b""))
    eq(outrider("generate", "-h"), outrider("generate", "--help"))
    for command in "chat", "generate", "health", "model", "demo":
        has(out.decode(), f"  {command} ")
        rc, text, err = outrider(command, "--help")
        eq((rc, err), (0, b""), command)
        has(text, b"usage: outrider " + command.encode())


def test_health(s):
    eq(outrider("health", "--server", s.address), (0, b"SERVING\n", b""))
    s.serving = False
    eq(outrider("health", "--server", s.address), (3, b"NOT_SERVING\n", b""))
    threading.Timer(0.3, lambda: setattr(s, "serving", True)).start()
    eq(outrider("health", "--wait", "20", "--server", s.address)[0], 0)
    eq(outrider("health", "--service", "outrider.v1.Inference", "--server", s.address)[0], 0)
    rc, _, err = outrider("health", "--service", "frob", "--server", s.address)
    eq(rc, 3)
    has(err, b"NOT_FOUND: no service frob")


def test_model(s):
    rc, out, _ = outrider("model", "--json", "--server", s.address)
    j = json.loads(out)
    eq((rc, j["fingerprint"], j["context_max"], j["device"], j["defaults"]["top_p"]), (0, fake.FINGERPRINT, 2048, "none \x1b[31m", 0.95))
    rc, out, _ = outrider("model", "--server", s.address)
    eq(rc, 0)
    has(out, b"2048 tokens, vocabulary of 905")
    has(outrider("model", "--json", "--server", s.address)[1], b'"temperature":0.5,"top_k":20,"top_p":0.95,')
    eq(outrider("model", "--server", s.address, "frob")[0], 2)


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
