#!/usr/bin/python3
"""`outrider demo`: with the real daemon and the tiny pair all of it holds; with a fake one each of its checks is seen to fail.
Usage: see client_harness.py."""
import pathlib
import re
import signal
import subprocess
import sys
import time

from client_harness import BUILD, OUTRIDER, PATIENCE, ROOT, Skip, eq, has, run_tests

FAKE = str(pathlib.Path(__file__).with_name("fake_daemon.py"))
# fault -> the checks that must see it
SEEN_BY = {
    "wrong-sum": ["the answer is"], "wrong-equation": ["the answer is"], "no-cut": ["the budget cut", "the closing text"], "over-budget": ["no more reasoning"],
    "no-closing": ["the closing text ends"], "empty-after-cut": ["answered all the same"], "other-thoughts": ["as in step 1"],
    "thinks-when-off": ["no reasoning at all"], "drafting-changes-ids": ["drafting on and off"], "drafting-changes-text": ["drafting on and off"],
    "resume-changes-text": ["broken and resumed"], "resume-repeats": ["broken and resumed"], "no-drafts": ["guesses were kept"],
    "drafts-when-off": ["nothing was guessed"], "never-breaks": ["cut short"], "exit-1": ["ends with status 0"], "refuses": ["an answer"], "dies-later": ["an answer"],
}


def demo(*args):
    p = subprocess.run([OUTRIDER, "demo", *args], capture_output=True, text=True, timeout=4 * PATIENCE)
    return p.returncode, p.stdout, p.stderr


def left_behind():
    return set(pathlib.Path("/tmp").glob("outrider-??????"))


def test_demo_with_the_daemon(_):
    if not (BUILD / "outriderd").exists() or not (ROOT / "assets/tiny/target/model.safetensors").exists():
        raise Skip("outriderd is not built, or assets/tiny has no weights")
    rc, out, err = demo()
    eq((rc, err), (0, ""), out)
    has(out, "Everything held.")
    has(out, "identical text and token ids")


def test_demo_with_a_sound_fake(_):
    before = left_behind()
    rc, out, err = demo("--daemon", FAKE)
    eq((rc, err), (0, ""), out)
    eq(out.count("  ok  "), len(re.findall(r"^  (ok|FAIL) ", out, re.M)))
    eq(left_behind(), before)


def test_demo_sees_every_fault(_):
    for fault, checks in SEEN_BY.items():
        rc, out, err = demo("--daemon", FAKE, "--", "--fault", fault)
        eq(rc, 1, fault)
        failed = re.findall(r"^  FAIL  (.*)", out, re.M)
        for part in checks:
            assert any(part in line for line in failed), f"{fault}: {part!r} is not in {failed}"
        has(err, "--- the daemon's log ---\nlistening on unix:/tmp/outrider-")


def test_demo_whose_daemon_does_not_start(_):
    before = left_behind()
    rc, _, err = demo("--daemon", FAKE, "--", "--fault", "dies-at-start")
    eq(rc, 3)
    has(err, "ended before it served (status 1)")
    has(err, "no such model, on purpose")
    rc, _, err = demo("--daemon", "/nonexistent")
    eq(rc, 3)
    has(err, "--daemon PATH")
    eq(left_behind(), before)


def test_demo_interrupted(_):
    before = left_behind()
    p = subprocess.Popen([OUTRIDER, "demo", "--daemon", FAKE, "--", "--fault", "slow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while b"1. A sum" not in p.stdout.readline():
        pass
    time.sleep(0.2)
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=PATIENCE)
    eq(p.returncode, 130)
    eq(left_behind(), before)


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
