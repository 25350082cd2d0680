#!/usr/bin/python3
"""The client and the real daemon, with the tiny pair.  Usage: see client_harness.py."""
import json
import re
import signal
import subprocess
import sys

from client_harness import OUTRIDER, PATIENCE, Daemon, Terminal, eq, generate, has, outrider, run_tests

SUM = "What is the sum of 626 and 807?"


def answer(daemon, *args, status=0):
    rc, out, err = generate(daemon, "--json", *args)
    eq(rc, status, err)
    return json.loads(out)


def test_model_and_health(_):
    with Daemon("--model-name", "tiny") as d:
        rc, out, _ = outrider("model", "--json", "--server", d.address)
        model = json.loads(out)
        eq((rc, model["name"], model["context_max"], model["vocab"]), (0, "tiny", 2048, 905))
        eq((model["defaults"]["temperature"], model["defaults"]["top_k"], model["defaults"]["top_p"]), (0.6, 20, 0.95))
        eq(answer(d, SUM)["fingerprint"], model["fingerprint"])
        eq(outrider("health", "--service", "outrider.v1.Inference", "--server", d.address)[:2], (0, b"SERVING\n"))


def test_answers(_):
    with Daemon() as d:
        thought = answer(d, "--temperature", "0", SUM)
        eq(thought["text"].strip(), "626 + 807 = 1433.")
        has(thought["reasoning"], "from the right.")
        eq((thought["finish"], thought["resolved"]["thinking"]), ("stop", True))
        short = answer(d, "--temperature", "0", "--no-think", SUM)
        eq((short["text"].strip(), short["reasoning"], short["usage"]["reasoning_tokens"]), ("626 + 807 = 1433.", "", 0))
        cut = answer(d, "--temperature", "0", "--budget", "7", SUM)
        eq((cut["thinking_cut"], cut["usage"]["reasoning_tokens"]), (True, 7))
        eq(answer(d, "--max-tokens", "5", SUM)["finish"], "length")
        raw = answer(d, "--raw", "--temperature", "0", f"<|im_start|>user\n{SUM}<|im_end|>\n<|im_start|>assistant\n")
        eq(raw["token_ids"], thought["token_ids"])


def test_seed_drafting_and_resume_give_one_text(_):
    flags = ["--temperature", "1.3", "--seed", "11", "--top-k", "0"]
    with Daemon() as d:
        whole = answer(d, *flags, SUM)
        for more in ["--speculation", "off"], ["--speculation", "16"]:
            other = answer(d, *flags, *more, SUM)
            eq((other["token_ids"], other["text"], other["reasoning"]), (whole["token_ids"], whole["text"], whole["reasoning"]), more)
        for n in range(1, len(whole["token_ids"]), 7):
            rc, out, err = generate(d, "--json", *flags, "--break-after", str(n), SUM)
            eq(rc, 0)
            first = json.loads(out)
            if first["finish"] != "none":  # it was over before it could be broken
                continue
            more = re.search(rb"add: (.*)", err).group(1).decode().replace("'", "").split()
            rest = answer(d, *flags, *more, SUM)
            for part in "token_ids", "text", "reasoning":
                eq(first[part] + rest[part], whole[part], f"{part} broken after {n}")


def test_refusals_are_told(_):
    with Daemon() as d:
        for args, part in (["--temperature", "-1", "x"], b"INVALID_ARGUMENT"), (["--top-p", "2", "x"], b"INVALID_ARGUMENT"), (["--max-tokens", "0", "x"], b"INVALID_ARGUMENT"), \
                (["--raw", "a " * 3000], b"the server answered"), (["--fingerprint", "other", "x"], b"FAILED_PRECONDITION"), (["--stop-token", "99999", "x"], b"INVALID_ARGUMENT"):
            rc, out, err = generate(d, *args)
            eq((rc, out), (3, b""), args)
            has(err, part)
            assert len(err) > 60, err  # a sentence, not a code


def slow(d, *args):
    """An answer that takes long: no end of text, one thread of plain C."""
    return ["generate", "--server", d.address, "--ignore-eos", "--max-tokens", "1900", "--show-thinking", *args, SUM]


SLOW = ["--isa", "twin", "--threads", "1"]


def test_interrupt(_):
    with Daemon(*SLOW) as d:
        p = subprocess.Popen([OUTRIDER, *slow(d)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert p.stdout.read(1)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=PATIENCE)
        eq(p.returncode, 130)
        has(err, b"--resume-tokens ")


def test_deadline_ends_the_answer(_):
    with Daemon(*SLOW) as d:
        for seconds in "1", "5", "25":  # the shortest may pass before the first token on a busy machine
            rc, out, err = outrider(*slow(d, "--deadline", seconds, "--json"))
            eq(rc, 1, err)
            j = json.loads(out)
            has(j["error"]["message"].lower(), "deadline")
            if j["token_ids"]:
                break
        assert j["token_ids"], "no token within 25 s"


def test_killed_daemon(_):
    with Daemon(*SLOW) as d:
        p = subprocess.Popen([OUTRIDER, *slow(d)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert p.stdout.read(1)
        d.kill()
        _, err = p.communicate(timeout=PATIENCE)
    eq(p.returncode, 3)
    has(err, b"went away before it had answered")
    has(err, b"--resume-tokens ")


def test_chat(_):
    with Daemon() as d:
        t = Terminal("chat", "--server", d.address, "--temperature", "0")
        at = t.expect(b"> ")
        t.type(SUM.encode() + b"\n")
        at = t.expect(b"626 + 807 = 1433.\r\n", t.expect(b"\x1b[0m\r\n\r\n", at))
        at = t.expect(b"> ", t.expect(b"tokens/pass", at))
        t.type(b"/no_think\nThank you\n")
        at = t.expect(b"> ", t.expect(b"You are welcome!", at))
        t.type(b"/quit\n")
        eq(t.wait(), 0)


def test_chat_ctrl_c(_):
    with Daemon(*SLOW) as d:
        t = Terminal("chat", "--server", d.address, "--ignore-eos", "--no-think", "--max-tokens", "1900")
        at = t.expect(b"> ")
        t.type(SUM.encode() + b"\n")
        at = t.expect(b"626 + 807", t.expect(b"\r\n", at))
        t.type(b"\x03")
        at = t.expect(b"> ", t.expect(b"[interrupted]", at))
        t.type(b"/stats\n")
        at = t.expect(b"messages in the conversation: 2", at)
        eq(t.leave(), 0)


def test_chat_enter_ends_the_thinking(_):
    """Nothing else would end it: neither the end of text nor </think> (904) is drawn."""
    with Daemon(*SLOW) as d:
        t = Terminal("chat", "--server", d.address, "--ignore-eos", "--max-tokens", "1900", "--logit-bias", "904:-100")
        at = t.expect(b"> ")
        t.type(SUM.encode() + b"\n")
        at = t.expect(b"626", t.expect(b"\x1b[2m", t.expect(b"\r\n", at)))
        t.type(b"\n")
        at = t.expect(b"based on the thinking directly now.", at)
        at = t.expect(b"\x1b[0m\r\n", at)
        t.expect(b"=", at)
        t.type(b"\x03")
        at = t.expect(b"> ", t.expect(b"[interrupted]", at))
        eq(t.leave(), 0)


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
