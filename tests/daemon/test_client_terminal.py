#!/usr/bin/python3
"""What a person sees: `outrider` on a terminal, and `outrider chat`.  Usage: see client_harness.py."""
import sys
import time

from client_harness import PATIENCE, Terminal, eq, has, outrider, run_tests, text_of
from fake_server import ENOUGH


def test_terminal_is_safe(s):
    t = Terminal("generate", "--server", s.address, "--no-think", "control")
    eq(t.wait(), 0)
    has(t.out, "\\x1b[2J\\x07\\x0dred\\u009b31m \\u202egnp\ttab \u4e16\r\n".encode())
    t = Terminal("generate", "--server", s.address, "refuse INVALID_ARGUMENT \x1b[2Jx")
    eq(t.wait(), 3)
    has(t.out, b"INVALID_ARGUMENT: \\x1b[2Jx")
    t = Terminal("model", "--server", s.address)
    eq(t.wait(), 0)
    has(t.out, b"none \\x1b[31m")


def test_no_colour_in_a_pipe(s):
    for command, stdin in ("generate", b"hello"), ("chat", b"hello\n/help\n/stats\n"):
        rc, out, err = outrider(command, "--server", s.address, stdin=stdin)
        eq(rc, 0)
        assert b"\x1b" not in out + err, out + err


def test_terminal_dims_thinking(s):
    t = Terminal("generate", "--server", s.address, "hello")
    eq(t.wait(), 0)
    has(t.out, b"\x1b[2m" + text_of("hello", 1).encode() + b"\x1b[0m\r\n\r\n" + text_of("hello", 2).encode())


def test_chat_keeps_the_conversation(s):
    t = Terminal("chat", "--server", s.address, "--system", "Be brief.")
    at = t.expect(b"> ")
    t.type(b"hello\n")
    at = t.expect(b"seed 18446744073709551611]", at)
    at = t.expect(b"> ", at)
    t.type(b"/seed 5\n")
    at = t.expect(b"> ", t.expect(b"seed: 5", at))
    t.type(b"/no_think\n")
    at = t.expect(b"> ", t.expect(b"thinking is off", at))
    t.type(b"again\n")
    at = t.expect(b"> ", t.expect(b"seed 5]", at))
    eq(t.leave(), 0)
    r = s.requests[-1][1]
    eq([(m.role, m.content, m.reasoning_content) for m in r.messages],
       [("system", "Be brief.", ""), ("user", "hello", ""), ("assistant", text_of("hello", 2), text_of("hello", 1)), ("user", "again", "")])
    eq((r.sampling.seed, r.thinking.enabled), (5, False))


def test_chat_survives_ctrl_c(s):
    s.cancelled.clear()
    t = Terminal("chat", "--server", s.address, "--no-think")
    at = t.expect(b"> ")
    t.type(b"slow " + b"x" * 200 + b"\n")
    at = t.expect(b"You said: slow x", at)
    t.type(b"\x03")
    at = t.expect(b"> ", t.expect(b"[interrupted]", at))
    assert s.cancelled.wait(PATIENCE), "the server did not see the cancel"
    t.type(b"half a line\x03/quit nothing\x03hello\n")
    at = t.expect(b"You said: hello.", at)
    at = t.expect(b"> ", at)
    t.type(b"/quit\n")
    eq(t.wait(), 0)
    r = s.requests[-1][1]
    eq([m.role for m in r.messages], ["user", "assistant", "user"])
    assert r.messages[1].content.startswith("You said: slow x") and r.messages[2].content == "hello", r.messages


def test_chat_ctrl_c_before_content_drops_the_question(s):
    t = Terminal("chat", "--server", s.address)
    at = t.expect(b"> ")
    t.type(b"slow " + b"x" * 200 + b"\n")
    at = t.expect(b"Let me", at)
    t.type(b"\x03")
    at = t.expect(b"> ", t.expect(b"the question is dropped", at))
    t.type(b"hello\n")
    t.expect(b"> ", t.expect(b"You said: hello.", at))
    eq(t.leave(), 0)
    eq([m.content for m in s.requests[-1][1].messages], ["hello"])


LONG = b"slow " + b"x" * 200 + b"\n"  # some 80 deltas of thinking, 20 ms each, and as many of content


def test_chat_enter_ends_the_thinking(s):
    t = Terminal("chat", "--server", s.address)
    at = t.expect(b"> ", t.expect(b"Enter ends the thinking"))
    t.type(LONG)
    at = t.expect(b"Let me think about slow xxx", at)
    t.type(b"\n")
    at = t.expect(b"You said: slow x", t.expect(ENOUGH.encode(), at))
    t.type(b"\n")  # nothing to end any more
    at = t.expect(b"> ", t.expect(b" all.", at))
    eq(s.controls, ["stop_thinking"])
    t.type(b"hello\n")
    t.expect(b"> ", t.expect(b"You said: hello.", at))
    eq(t.leave(), 0)
    eq([r[0] for r in s.requests], ["ChatStream"] * 2)
    said = s.requests[-1][1].messages[1]
    assert said.reasoning_content.endswith(ENOUGH) and said.content.endswith(" all."), said
    assert not s.cancelled.is_set(), "an answer that was stopped from thinking was cancelled"


def test_chat_enter_before_the_thinking_shows(s):
    """Keys typed with the question, before the line editor had given the terminal back or while it did: two Enters and another question."""
    t = Terminal("chat", "--server", s.address)
    at = t.expect(b"> ")
    t.type(LONG + b"\n\nhello\n\n")
    at = t.expect(b"You said: hello.", t.expect(b"You said: slow x", at))
    t.expect(b"> ", at)
    eq(t.leave(), 0)
    eq(([r[1].messages[-1].content for r in s.requests], s.controls), ([LONG.decode().strip(), "hello"], []))


def test_chat_questions_typed_ahead(s):
    t = Terminal("chat", "--server", s.address, "--no-think")
    at = t.expect(b"> ")
    t.type(LONG)
    at = t.expect(b"You said: slow x", at)
    t.type("gr\u00fc\u00dfe\n/no_think\nhel".encode())
    time.sleep(0.3)  # all of it is read while the answer comes, but for the line that is not whole
    t.type(b"\x04")  # what the terminal has of that one
    at = t.expect("You said: gr\u00fc\u00dfe.".encode(), t.expect(b" all.", at))
    at = t.expect(b"> ", t.expect(b"thinking is off", at))
    t.type(b"lo\n")
    t.expect(b"> ", t.expect(b"You said: hello.", at))
    eq(t.leave(), 0)
    eq([r[1].messages[-1].content for r in s.requests], [LONG.decode().strip(), "gr\u00fc\u00dfe", "hello"])


def test_chat_ctrl_c_forgets_what_was_typed_ahead(s):
    t = Terminal("chat", "--server", s.address, "--no-think")
    at = t.expect(b"> ")
    t.type(LONG)
    at = t.expect(b"You said: slow x", at)
    t.type(b"never asked\n")
    at = t.expect(b"never asked", at)
    time.sleep(0.3)
    t.type(b"\x03")
    at = t.expect(b"> ", t.expect(b"[interrupted]", at))
    t.type(b"hello\n")
    t.expect(b"> ", t.expect(b"You said: hello.", at))
    eq(t.leave(), 0)
    eq([r[1].messages[-1].content for r in s.requests], [LONG.decode().strip(), "hello"])


def test_chat_history(s):
    t = Terminal("chat", "--server", s.address, "--no-think")
    at = t.expect(b"> ")
    t.type("gr\u00fc\u00dfe\n".encode())
    at = t.expect(b"> ", t.expect(b"seed", at))
    t.type(b"\x1b[A!\n")
    at = t.expect(b"> ", t.expect(b"seed", at))
    eq(t.leave(), 0)
    eq(s.requests[-1][1].messages[-1].content, "gr\u00fc\u00dfe!")


def test_chat_commands_and_errors(s):
    t = Terminal("chat", "--server", s.address)
    at = t.expect(b"> ")
    for line, answer in (b"/frob", b"no command '/frob'"), (b"/budget x", b"/budget takes"), (b"/budget 12", b"12 tokens"), (b"/temperature 0.5", b"temperature: 0.5"), \
            (b"/think", b"thinking is on"), (b"/think hard", b"takes no argument"), (b"refuse INTERNAL broken", b"INTERNAL: broken"), (b"hello", b"seed"), (b"/stats", b"answers: 1, without one: 1"), \
            (b"/reset", b"starts anew"), (b"/budget", b"default"), (b"/help", b"/no_think"), (b" /help", b"You said"):
        t.type(line + b"\n")
        at = t.expect(b"> ", t.expect(answer, at))
    t.type(b"/quit\n")
    eq(t.wait(), 0)
    r = s.requests[-1][1]
    eq([m.content for m in r.messages], [" /help"])
    assert not r.thinking.HasField("budget") and r.sampling.temperature == 0.5
    eq(s.requests[-2][1].thinking.budget, 12)
    eq([m.content for m in s.requests[-2][1].messages], ["hello"], "a refused question is not kept")


def test_chat_from_a_pipe(s):
    rc, out, err = outrider("chat", "--server", s.address, "--no-think", stdin=b"one\n\n/seed 3\ntwo")
    eq((rc, err), (0, b""))
    has(out, b"You said: one.")
    has(out, b"You said: two.")
    eq((len(s.requests[-1][1].messages), s.requests[-1][1].sampling.seed), (3, 3))
    rc, _, err = outrider("chat", "--server", s.address, stdin=b"refuse INTERNAL broken\n")
    eq(rc, 3)
    has(err, b"INTERNAL: broken")
    rc, out, err = outrider("chat", "--server", s.address, stdin=b"/budget 3 \t\r\none\r\na\0b\n")
    eq(rc, 3, "the last question was not answered")
    has(err, b"has a NUL byte")
    eq(([m.content for m in s.requests[-1][1].messages], s.requests[-1][1].thinking.budget), (["one"], 3))


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
