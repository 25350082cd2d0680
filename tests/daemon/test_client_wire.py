#!/usr/bin/python3
"""The client against servers that refuse, break, lie or are not there.  Usage: see client_harness.py."""
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import fake_server as fake
from client_harness import OUTRIDER, PATIENCE, eq, generate, has, outrider, run_tests, text_of
from fake_server import FakeServer, RawServer
from stubs import pb


def test_refusal(s):
    rc, out, err = generate(s, "refuse INVALID_ARGUMENT temperature must be at least 0, not -1: 100% w\u00e4rmer")
    eq((rc, out), (3, b""))
    eq(err.decode(), "outrider generate: the server answered INVALID_ARGUMENT: temperature must be at least 0, not -1: 100% w\u00e4rmer\n")
    rc, out, _ = generate(s, "--json", "refuse RESOURCE_EXHAUSTED the queue is full")
    eq((rc, json.loads(out)["error"]), (3, {"code": 8, "message": "the server answered RESOURCE_EXHAUSTED: the queue is full"}))


def test_failure_in_mid_stream(s):
    rc, out, err = generate(s, "--no-think", "late the target died")
    eq((rc, out), (3, b"You"))
    has(err, b"INTERNAL: the target died")
    has(err, b"--resume-tokens 89,111,117\n")


def test_malformed_streams(s):
    for prompt, part in ("garbage", b"are no outrider.v1.Event"), ("noend", b"without its last event"), ("order", b"out of order"), ("utf8", b"not UTF-8"):
        rc, _, err = generate(s, prompt)
        eq(rc, 3, prompt)
        has(err, part)


def test_deadline(s):
    t = time.monotonic()
    rc, _, err = generate(s, "--deadline", "0.3", "slow " + "x" * 2000)
    eq(rc, 1)
    has(err.lower(), b"deadline")
    assert 0.25 < time.monotonic() - t < 5


def test_nobody_listens(_):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for command in "generate", "health", "model":
        rc, out, err = outrider(command, "--server", f"127.0.0.1:{port}", *(["hi"] if command == "generate" else []))
        eq((rc, out), (3, b""), command)
        has(err, b"no outriderd listens on 127.0.0.1:%d (Connection refused); start one with `outriderd --target MODEL`" % port)
    rc, _, err = outrider("generate", "hi", env={"OUTRIDER_SERVER": "unix:/nonexistent/socket"})
    eq(rc, 3)
    has(err, b"no outriderd listens on unix:/nonexistent/socket (No such file or directory)")
    for address in "nonsense", "unix:", ":1", "host:", "::1", "unix:/" + "x" * 200, "127.0.0.1:http":
        eq(outrider("health", "--server", address)[0], 2, address)


def test_unix_socket(s):
    with tempfile.TemporaryDirectory() as d:
        u = FakeServer(f"unix:{d}/socket")
        rc, out, _ = generate(u, "hello")
        u.stop()
    eq((rc, out.decode()), (0, text_of("hello", 2)))


def test_default_server_is_the_environments(s):
    eq(outrider("generate", "hello", env={"OUTRIDER_SERVER": s.address})[1].decode(), text_of("hello", 2))


def raw(script, *args, **k):
    s = RawServer(script, **k)
    try:
        return s, *outrider("generate", "--server", s.address, *args, "hello")
    finally:
        s.stop()


def event(**k):
    return fake.message(pb.Event(**k).SerializeToString())


BEGIN = event(begin=pb.Begin(seed=7, fingerprint="f"))
DELTA = event(delta=pb.Delta(content="abc", token_ids=[1, 2, 3]))
END = event(end=pb.End(finish=pb.End.STOP))
OPENING = fake.settings() + fake.headers(1, fake.OK)
TRAILERS = fake.headers(1, [("grpc-status", "0")], end=True)


def test_messages_cut_anywhere(_):
    whole = BEGIN + DELTA + END
    script = [OPENING] + [x for byte in whole for x in (fake.data(1, bytes([byte])), fake.data(1, b""))] + [TRAILERS]
    _, rc, out, err = raw([b"".join(script)])
    eq((rc, out, err), (0, b"abc", b""))
    stream = b"".join(script)
    _, rc, out, err = raw([x for i in range(0, len(stream), 7) for x in (stream[i:i + 7], 0.0005)])
    eq((rc, out, err), (0, b"abc", b""))


def test_request_on_the_wire(_):
    s, rc, _, _ = raw([OPENING + fake.data(1, BEGIN + END), TRAILERS], "--deadline", "2.5", hold=True)
    eq(rc, 0)
    eq(s.got[:24], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    bodies = b"".join(p for kind, _, stream, p in s.frames() if kind == 0 and stream == 1)
    eq(bodies[:5], b"\0" + len(bodies[5:]).to_bytes(4, "big"))
    eq(pb.ChatRequest.FromString(bodies[5:]).messages[0].content, "hello")


def chat(script):
    s = RawServer(script, hold=True, open=True)
    try:
        return s, *outrider("chat", "--server", s.address, stdin=b"hello\n")
    finally:
        s.stop()


def test_answers_that_end_while_the_client_may_speak(_):
    """A server need not wait for the client's last word, nor ask it to stop."""
    for last in b"", fake.reset(1, 0):
        s, rc, out, err = chat([OPENING + fake.data(1, BEGIN + DELTA + END), TRAILERS + last])
        eq((rc, out[:4], err), (0, b"abc\n", b""))
        bodies = b"".join(p for kind, _, stream, p in s.frames() if kind == 0 and stream == 1)
        eq(pb.ChatControl.FromString(bodies[5:]).request.messages[0].content, "hello")
        assert not any(kind == 0 and flags & 1 for kind, flags, _, _ in s.frames()), "the client closed its side first"
    for script, part in (fake.settings() + fake.headers(1, fake.OK + [("grpc-status", "8"), ("grpc-message", "full")], end=True), b"RESOURCE_EXHAUSTED: full"), \
            (OPENING + fake.data(1, BEGIN + DELTA) + fake.reset(1, 2), b"broke off the stream (INTERNAL_ERROR"), \
            (OPENING + fake.data(1, BEGIN + DELTA + END, end=True), b"without a grpc-status"):
        _, rc, _, err = chat([script])
        eq(rc, 3)
        has(err, part)


def test_a_long_conversation_is_sent_whole(s):
    rc, out, _ = outrider("chat", "--no-think", "--server", s.address, stdin=b"length " + b"y" * 1000000)
    eq((rc, out[:7]), (0, b"1000000"))


def test_trailers_only(_):
    only = fake.headers(1, fake.OK + [("grpc-status", "8"), ("grpc-message", "too%20many %C3%A4%zz%4")], end=True)
    _, rc, out, err = raw([fake.settings() + only])
    eq((rc, out, err.decode()), (3, b"", "outrider generate: the server answered RESOURCE_EXHAUSTED: too many \u00e4%zz%4\n"))


def test_unknown_status(_):
    for value in "99", "x", "-1":
        _, rc, _, err = raw([fake.settings() + fake.headers(1, fake.OK + [("grpc-status", value)], end=True)])
        eq(rc, 3)
        has(err, b"UNKNOWN" if value == "99" else b"without a grpc-status")


def test_ends_without_status(_):
    _, rc, _, err = raw([OPENING + fake.data(1, BEGIN + DELTA + END, end=True)])
    eq(rc, 3)
    has(err, b"without a grpc-status")


def test_http_errors(_):
    for status, want in ("404", b"HTTP 404, not gRPC"), ("503", b"HTTP 503, not gRPC"), ("200", b"HTTP 200, not gRPC"):
        _, rc, _, err = raw([fake.settings() + fake.headers(1, [(":status", status), ("content-type", "text/plain")], end=True)])
        eq(rc, 3)
        has(err, want)


def test_http1_server(_):
    _, rc, _, err = raw([b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"])
    eq(rc, 3)
    has(err, b"speaks HTTP/1, not gRPC")


def test_goaway(_):
    _, rc, _, err = raw([fake.settings() + fake.goaway(0, 0, b"max_age")], hold=True)
    eq(rc, 3)
    has(err, b"REFUSED_STREAM")
    has(err, b"max_age")
    _, rc, out, err = raw([OPENING + fake.goaway(1, 0) + fake.data(1, BEGIN + DELTA), 0.05, fake.data(1, END) + TRAILERS])
    eq((rc, out, err), (0, b"abc", b""), "a goodbye that lets the call end")
    _, rc, out, err = raw([OPENING + fake.data(1, BEGIN + DELTA) + fake.goaway(1, 11, b"calm\x1b[2J")])
    eq((rc, out), (3, b"abc"))
    has(err, b"went away before it had answered (it said goodbye: ENHANCE_YOUR_CALM, calm")


def test_resets(_):
    for code, want in (7, b"REFUSED_STREAM"), (8, b"CANCEL"), (2, b"INTERNAL_ERROR"), (11, b"ENHANCE_YOUR_CALM"):
        _, rc, out, err = raw([OPENING + fake.data(1, BEGIN + DELTA) + fake.reset(1, code)], hold=True)
        eq((rc, out), (3, b"abc"))
        has(err, b"broke off the stream (" + want)
        has(err, b"--seed 7 --fingerprint 'f' --resume-tokens 1,2,3")


def test_closed_in_mid_message(_):
    _, rc, _, err = raw([OPENING + fake.data(1, BEGIN + DELTA[:4])])
    eq(rc, 3)
    has(err, b"went away before it had answered")
    _, rc, _, err = raw([OPENING + fake.data(1, BEGIN + END + DELTA[:4]) + TRAILERS])
    eq(rc, 3)
    has(err, b"in the middle of a message")


def test_bad_prefixes(_):
    _, rc, _, err = raw([OPENING + fake.data(1, fake.message(b"", flag=1))], hold=True)
    eq(rc, 3)
    has(err, b"compressed message")
    s, rc, _, err = raw([OPENING + fake.data(1, b"\0\xff\xff\xff\xff")], hold=True)
    eq(rc, 3)
    has(err, b"4294967295 bytes; at most")
    end = time.monotonic() + PATIENCE
    while not any(kind == 3 for kind, _, _, _ in s.frames()) and time.monotonic() < end:
        time.sleep(0.01)
    eq([p for kind, _, stream, p in s.frames() if kind == 3], [b"\0\0\0\x08"], "RST_STREAM(CANCEL)")


def test_garbage_frames(_):
    for junk in b"\0" * 64, b"\xff" * 64, fake.frame(1, 4, 1, b"\xff\xff\xff\xff"), fake.frame(0, 0, 0, b"x"), fake.frame(9, 0, 1, b""):
        _, rc, _, err = raw([fake.settings() + junk], hold=True)
        eq(rc, 3, junk)
        has(err, b"outrider generate: the server ")


def test_server_killed(_):
    """A real process, killed while it streams."""
    code = "import sys; sys.path.insert(0, sys.argv[1])\nimport fake_server, time\ns = fake_server.FakeServer('127.0.0.1:0')\nprint(s.address, flush=True)\ntime.sleep(60)"
    server = subprocess.Popen([sys.executable, "-c", code, str(pathlib.Path(__file__).parent)], stdout=subprocess.PIPE, text=True)
    try:
        p = subprocess.Popen([OUTRIDER, "generate", "--no-think", "--server", server.stdout.readline().strip(), "slow " + "x" * 2000], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert os.read(p.stdout.fileno(), 100)
        server.kill()
        _, err = p.communicate(timeout=PATIENCE)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    eq(p.returncode, 3)
    has(err, b"went away before it had answered")
    has(err, b"--resume-tokens 89,111,117")


def test_output_that_cannot_be_written(s):
    with open("/dev/full", "wb") as full:
        for args in [], ["--json"], ["--json-stream"]:
            p = subprocess.run([OUTRIDER, "generate", "--server", s.address, *args, "hello"], stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE)
            eq(p.returncode, 1, args)
            has(p.stderr, b"No space left on device")


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
