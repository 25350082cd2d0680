"""Deadlines, cancels, slow readers, broken bytes, floods, drains.  Run as wire_answers.py is."""
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time

import wire_raw as raw
from wire_harness import (ARGS, LONG, TARGET, Answer, Daemon, Setup, answer, check, equal, eventually, grpc, health_pb, pb,
                          refused, test, text_request, tmp, tokens)

Code = grpc.StatusCode


# --- deadlines, cancellation, limits ---


def one_at_a_time(*flags, **env):
    return Daemon("--max-sessions", 1, "--max-queue", 0, *flags, **env)


def slot_is_free(s, seconds=30):
    """The one session can be had again."""

    def tries():
        try:
            return answer(s.Generate(text_request(max_tokens=1)))
        except grpc.RpcError as e:
            equal(e.code(), Code.RESOURCE_EXHAUSTED)
            return None

    eventually("the session is free again", seconds, tries)


def start(call):
    """Reads up to the first Delta."""
    first = []
    for ev in call:
        first.append(ev)
        if ev.WhichOneof("event") == "delta":
            return first
    raise AssertionError("the stream ended before its first delta")


@test()
def deadline_has_passed():
    with Daemon() as d:
        c = raw.Connection(d.connect())
        c.open(1, raw.request_headers(grpc_timeout="0n"), raw.message(text_request(max_tokens=1)))
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS)
        check(frames[-1][1] & raw.END_STREAM and b"\x014" in frames[-1][3], "grpc-status 4 at once")
        c.close()


@test()
def deadline_in_mid_stream():
    with one_at_a_time(slow=True) as d:
        begun = time.time()
        answer(d.stub().Generate(text_request(max_tokens=2)))
        seconds = 0.3 + 3 * (time.time() - begun)  # time to begin and to say something
        c = raw.Connection(d.connect())
        c.open(1, raw.request_headers(grpc_timeout=f"{int(seconds * 1000)}m"), raw.message(text_request(max_tokens=LONG)))
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM, 60)
        check(b"\x014" in frames[-1][3], "grpc-status 4")
        a = Answer(pb.Event.FromString(m) for m in raw.messages(frames, 1)).adds_up()
        equal(a.end.finish, pb.End.DEADLINE)
        check(0 < len(a.ids) < LONG, f"{len(a.ids)} tokens in {seconds:.1f} s")
        slot_is_free(d.stub())
        refused(Code.DEADLINE_EXCEEDED, d.stub().Generate, text_request(max_tokens=LONG), timeout=seconds)
        slot_is_free(d.stub())
        c.close()


@test()
def deadline_in_the_queue():
    with Daemon("--max-sessions", 1, "--max-queue", 1, slow=True) as d:
        s = d.stub()
        running = s.Generate(text_request(max_tokens=LONG))
        start(running)
        c = raw.Connection(d.connect())
        c.open(1, raw.request_headers(grpc_timeout="200m"), raw.message(text_request(max_tokens=3)))
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM)
        a = Answer(pb.Event.FromString(m) for m in raw.messages(frames, 1))
        equal(a.end.finish, pb.End.DEADLINE)
        check(a.begin is not None and not a.ids, "Begin and End, no token")
        running.cancel()
        c.close()


def output_of(d, request_id):
    """How many tokens the engine made for a request that it has let go of; None while it has not."""
    found = re.search(rf"request {request_id}: (\d+) tokens of output", d.log())
    return int(found.group(1)) if found else None


def said_until_cancelled(d, name):
    """Cancels an answer after its first delta, with a request right behind.  -> tokens the client got, tokens the engine made."""
    c = raw.Connection(d.connect())
    c.open(1, body=raw.message(text_request(max_tokens=LONG, request_id=name)))
    frames = c.until(lambda kind, flags, stream, p: len(raw.messages([(kind, flags, stream, p)], 1)) > 0 and kind == raw.DATA)
    frames += c.until(lambda kind, flags, stream, p: kind == raw.DATA)
    c.send(raw.frame(raw.RST, 0, 1, struct.pack(">I", raw.CANCEL)))
    c.open(3, body=raw.message(text_request(max_tokens=1)))
    frames += c.until(lambda kind, flags, stream, p: stream == 3 and kind == raw.HEADERS and flags & raw.END_STREAM, 120)
    equal(len(Answer(pb.Event.FromString(m) for m in raw.messages(frames, 3)).adds_up().ids), 1, "the one behind it")
    c.close()
    got = sum(len(pb.Event.FromString(m).delta.token_ids) for m in raw.messages(frames, 1))
    return got, eventually("the engine has let go of it", 120, lambda: output_of(d, name))


@test()
def cancel_in_mid_stream():
    """The one session is had by the request behind the cancel only once the answer has been given up, and of what nobody reads no
    more is made than a round or two: in the best of some tries, as a slow machine may let the engine run on before the loop reads."""
    tries = []
    with Daemon("--max-sessions", 1, "--max-queue", 1, slow=True) as d:
        for i in range(10):
            got, made = said_until_cancelled(d, f"cancelled-{i}")
            check(got <= made < LONG, f"{made} tokens of {LONG} were made, {got} came")
            tries.append(made - got)
    check(min(tries) <= 2, f"rounds after a cancel: {tries}")


@test()
def cancels_leave_nothing():
    """More of them than the table of sessions has places; then one answer has every page that there is."""
    ctx = 512
    with one_at_a_time("--ctx", ctx, *([] if Setup.fake else ["--kv-bytes", "1M"])) as d:
        s = d.stub()
        places = 2 * (1 + 64)
        c = raw.Connection(d.connect())
        for i in range(places + 20):
            c.open(1 + 2 * i, body=raw.message(text_request(max_tokens=400, request_id=f"left-{i}")))
            c.send(raw.frame(raw.RST, 0, 1 + 2 * i, struct.pack(">I", raw.CANCEL)))
            if i % 10 == 0:
                slot_is_free(s, 120)
        slot_is_free(s, 120)
        vocab = s.GetModel(pb.GetModelRequest()).vocab
        whole = pb.GenerateRequest(tokens=pb.TokenIds(ids=[7 + i % (vocab // 2) for i in range(ctx - 40)]), stopping=pb.Stopping(ignore_eos=True))
        a = answer(s.Generate(whole))
        equal((len(a.ids), a.end.finish, a.end.speculation.preemptions), (40, pb.End.LENGTH, 0), "an answer that fills the context")
        c.close()


@test()
def client_is_killed():
    with one_at_a_time(slow=True) as d:
        c = raw.Connection(d.connect())
        c.open(1, body=raw.message(text_request(max_tokens=LONG, request_id="killed")))
        c.until(lambda kind, flags, stream, p: kind == raw.DATA)
        refused(Code.RESOURCE_EXHAUSTED, d.stub().Generate, text_request(max_tokens=1))
        equal(output_of(d, "killed"), None, "it still runs")
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()  # a reset, as when the process dies
        slot_is_free(d.stub(), 120)
        check(output_of(d, "killed") < LONG, "the answer was made to its end for nobody")


@test()
def full_house_is_told():
    with Daemon("--max-sessions", 2, "--max-queue", 1, slow=True) as d:
        s = d.stub()
        running = [s.Generate(text_request(max_tokens=LONG)) for _ in range(2)]
        for r in running:
            start(r)
        queued = s.Generate(text_request(max_tokens=2))
        time.sleep(0.1)
        said = refused(Code.RESOURCE_EXHAUSTED, d.stub().Generate, text_request(max_tokens=1))
        check("2 sessions" in said and "try again" in said, said)
        running[0].cancel()
        answer(queued)
        running[1].cancel()


@test()
def hundred_streams_on_one_connection():
    n = tokens(30, 4)
    with Daemon() as d:
        s = d.stub()
        calls = [s.Generate(text_request(f"number {i} ", max_tokens=n, sampling=pb.Sampling(seed=i))) for i in range(100)]
        answers = [answer(c) for c in calls]
        for i, a in enumerate(answers):
            equal(a.begin.seed, i)
            equal(len(a.ids), n)
        again = answer(s.Generate(text_request("number 77 ", max_tokens=n, sampling=pb.Sampling(seed=77))))
        equal(again.content, answers[77].content, "the same request alone")


@test()
def many_connections():
    n = tokens(20, 5)
    with Daemon() as d:
        out = [None] * 40

        def run(i):
            out[i] = answer(d.stub().Generate(text_request(f"number {i} ", max_tokens=n)))

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(out))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        check(all(a and len(a.ids) == n for a in out))


@test()
def connection_limit():
    with Daemon("--max-connections", 3) as d:
        held = [raw.Connection(d.connect()) for _ in range(3)]
        for c in held:
            c.until(lambda kind, flags, stream, p: kind == raw.SETTINGS and flags & raw.ACK)
        extra = d.connect()
        equal(extra.recv(10), b"", "the fourth is closed")
        held.pop().close()

        def again():
            c = raw.Connection(d.connect())
            got = c.recv()
            c.close()
            return got is not None

        eventually("a place is free", 5, again)


@test()
def stream_limit():
    with Daemon("--max-streams", 4, slow=True) as d:
        c = raw.Connection(d.connect())
        c.until(lambda kind, flags, stream, p: kind == raw.SETTINGS and flags & raw.ACK)
        for i in range(5):
            c.open(1 + 2 * i, body=raw.message(text_request(max_tokens=LONG)))
        frames = c.until(lambda kind, flags, stream, p: kind == raw.GOAWAY)
        check(raw.goaway_code(frames), "a client that breaks the limit it has acknowledged is sent away")
        c.close()


# --- slow readers ---


OFF = pb.Speculation(mode=pb.Speculation.OFF)  # a token an event: the engine is then less ahead of a busy loop


def narrow(d, n):
    """A stream of n tokens whose reader takes 500 bytes and then no more."""
    c = raw.Connection(d.connect(), struct.pack(">HI", 4, 500))
    c.open(1, body=raw.message(text_request("slow reader ", max_tokens=n, speculation=OFF)))
    frames = []
    while sum(len(f[3]) for f in frames if f[0] == raw.DATA) < 500:
        frames.append(c.recv())
    return c, frames


@test()
def slow_reader_is_parked_and_others_run():
    n = tokens(LONG, 700)  # more than is made before a loop that waits for a processor says park
    with Daemon("--max-unsent-bytes", "1K", "--max-sessions", 2, "--max-queue", 0, FAKE_ROUND_US=200, FAKE_BURST=64) as d:
        c, frames = narrow(d, n)
        s = d.stub()
        for _ in range(3):
            answer(s.Generate(text_request(max_tokens=tokens(100, 10))))

        def rests():
            before = d.cpu_ticks()
            time.sleep(0.5)
            return d.cpu_ticks() - before < 5

        eventually("the answer nobody reads is no longer generated", 60, rests)
        other, _ = narrow(d, n)
        eventually("nor is the other", 60, rests)
        refused(Code.RESOURCE_EXHAUSTED, s.Generate, text_request(max_tokens=1))  # neither has come to its end
        c.window(1, 1 << 30)
        frames += c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM, 180)
        a = Answer(pb.Event.FromString(m) for m in raw.messages(frames, 1)).adds_up()
        equal(len(a.ids), n)
        c.close()
        other.close()


@test()
def slow_reader_may_still_steer():
    """On a ChatStream whose reader is behind a word of the client's is heard all the same: it asks for no more."""
    with one_at_a_time("--max-unsent-bytes", "1K", slow=True) as d:
        c = raw.Connection(d.connect(), struct.pack(">HI", 4, 500))
        chat = pb.ChatRequest(messages=[pb.Message(role="user", content="a b c d")], speculation=OFF,
                              stopping=pb.Stopping(max_tokens=tokens(LONG, 700), ignore_eos=True))
        c.open(1, raw.request_headers("/outrider.v1.Inference/ChatStream"), raw.message(pb.ChatControl(request=chat)), end=False)

        def parked():
            return d.stub().GetStats(pb.GetStatsRequest()).sessions_parked == 1

        eventually("the answer is parked", 60, parked)
        c.send(raw.frame(raw.DATA, 0, 1, raw.message(pb.ChatControl(stop_thinking=pb.StopThinking()))))
        c.send(raw.frame(raw.DATA, 0, 1, raw.message(pb.ChatControl(cancel=pb.Cancel()))))
        c.window(1, 1 << 30)
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM, 60)
        a = Answer(pb.Event.FromString(m) for m in raw.messages(frames, 1)).adds_up()
        equal(a.end.finish, pb.End.CANCELLED)
        slot_is_free(d.stub())
        c.close()


@test(fake=True)
def slow_reader_is_not_buffered_without_bound():
    n = 3000000
    with Daemon(FAKE_ROUND_US=200, FAKE_BURST=2048, FAKE_CTX=2 * n) as d:
        c = raw.Connection(d.connect())
        c.open(1, body=raw.message(text_request("slow reader ", max_tokens=n)))
        frames = []
        while sum(len(f[3]) for f in frames if f[0] == raw.DATA) < 65535:
            frames.append(c.recv())
        before = d.rss_kib()
        time.sleep(2)
        answer(d.stub().Generate(text_request(max_tokens=200)))
        check(d.rss_kib() - before < 8192, f"memory grew by {d.rss_kib() - before} KiB behind a reader that does not read")
        c.window(0, 1 << 30)
        c.window(1, 1 << 30)
        frames += c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM, 60)
        a = Answer(pb.Event.FromString(m) for m in raw.messages(frames, 1)).adds_up()
        equal(len(a.ids), n)
        c.close()


@test(fake=True)
def stalled_reader_is_cut_off():
    with one_at_a_time("--stall-timeout", 0.5, FAKE_ROUND_US=200, FAKE_BURST=64, FAKE_CTX=2000000) as d:
        c = raw.Connection(d.connect())
        c.open(1, body=raw.message(text_request(max_tokens=1000000)))
        frames = c.until(lambda kind, flags, stream, p: kind == raw.RST)
        equal(struct.unpack(">I", frames[-1][3])[0], raw.CANCEL)
        slot_is_free(d.stub())
        c.close()


@test()
def reader_that_stalls_later_is_cut_off():
    """One byte more is taken while the stall alarm runs, then nothing at all happens on the connection."""
    with one_at_a_time("--stall-timeout", 0.5, "--max-unsent-bytes", "1K") as d:
        c, _ = narrow(d, tokens(LONG, 300))
        c.window(1, 1)
        frames = c.until(lambda kind, flags, stream, p: kind == raw.RST)
        equal(struct.unpack(">I", frames[-1][3])[0], raw.CANCEL)
        slot_is_free(d.stub())
        c.close()


@test(fake=True)
def parked_answer_runs_on_at_a_quarter():
    """As the flag's help says: here it comes to its end although the client leaves 8 KiB where they are."""
    with one_at_a_time("--max-unsent-bytes", "64K", FAKE_ROUND_US=200, FAKE_BURST=16, FAKE_CTX=1000000) as d:
        c = raw.Connection(d.connect(), struct.pack(">HI", 4, 1 << 20))
        c.open(1, body=raw.message(text_request("slow reader ", max_tokens=10000)))
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM)
        bytes_a_token = sum(len(f[3]) for f in frames if f[0] == raw.DATA) / 10000
        c.close()
        c = raw.Connection(d.connect(), struct.pack(">HI", 4, 0))
        c.open(1, body=raw.message(text_request("slow reader ", max_tokens=int((64 + 8) * 1024 / bytes_a_token))))
        c.until(lambda kind, flags, stream, p: kind == raw.HEADERS)
        time.sleep(0.5)  # parked by now; if not, it ends all the more
        c.window(1, 56 * 1024)
        slot_is_free(d.stub())
        c.close()


@test(fake=True)
def stalled_socket_is_closed():
    """Windows wide open, but the socket is not read: the kernel's buffers fill up."""
    with one_at_a_time("--stall-timeout", 0.5, FAKE_ROUND_US=200, FAKE_BURST=512, FAKE_CTX=20000000) as d:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", d.port))
        c = raw.Connection(sock, struct.pack(">HI", 4, 0x7fffffff))
        c.window(0, 0x7fff0000)
        c.open(1, body=raw.message(text_request(max_tokens=10000000)))
        slot_is_free(d.stub(), 20)
        check(d.rss_kib() < 200000)
        c.close()


@test()
def slow_request_is_refused():
    with Daemon("--request-timeout", 0.3) as d:
        c = raw.Connection(d.connect())
        c.open(1, body=b"\0\0\0", end=False)
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS)
        check(frames[-1][1] & raw.END_STREAM and b"\x014" in frames[-1][3])
        c.close()
        silent = d.connect()
        equal(silent.recv(10), b"", "a connection that says nothing is closed")
        half = d.connect()
        half.sendall(raw.PREFACE[:10])
        equal(half.recv(10), b"", "and one that stops in its preface")
        c = raw.Connection(d.connect())
        c.until(lambda kind, flags, stream, p: kind == raw.SETTINGS and flags & raw.ACK)  # another frame would end it as an error
        c.send(raw.frame(raw.HEADERS, 0, 1, raw.hpack(raw.request_headers())))  # no END_HEADERS follows
        frames = c.until(lambda *f: False)
        equal((raw.goaway_code(frames), frames[-1][3][8:]), (raw.ENHANCE_YOUR_CALM, b"headers_timeout"), "a header block that never ends")


# --- bytes that are not a client's ---


@test()
def garbage_instead_of_a_preface():
    with Daemon() as d:
        for junk in (b"\0" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\xff\xfe", b"\r\n\r\n", b"\0"):
            s = d.connect()
            s.sendall(junk)
            equal(s.recv(1000), b"", f"after {junk[:4]!r}")
        for http in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\n\r\n", b"PRI * HTTP/1.1\r\n\r\n"):
            s = d.connect()
            s.sendall(http)
            got = b""
            while chunk := s.recv(1000):
                got += chunk
            head, _, body = got.partition(b"\r\n\r\n")
            check(head.startswith(b"HTTP/1.1 505 ") and b"gRPC" in body, got)
        answer(d.stub().Generate(text_request(max_tokens=1)))


@test()
def preface_in_pieces():
    with Daemon() as d:
        sock = d.connect()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        c = raw.Connection(sock, greet=False)
        whole = raw.PREFACE + raw.frame(raw.SETTINGS) + raw.frame(raw.HEADERS, raw.END_HEADERS, 1,
                                                                  raw.hpack(raw.request_headers()))
        whole += raw.frame(raw.DATA, raw.END_STREAM, 1, raw.message(text_request(max_tokens=3)))
        for i in range(len(whole)):
            c.send(whole[i:i + 1])
            if i < 40:
                time.sleep(0.002)
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM)
        Answer(pb.Event.FromString(m) for m in raw.messages(frames, 1)).adds_up()
        c.close()


@test()
def message_in_pieces():
    with Daemon() as d:
        c = raw.Connection(d.connect())
        c.open(1, end=False)
        body = raw.message(text_request(max_tokens=3))
        for i in range(len(body)):
            c.send(raw.frame(raw.DATA, 0, 1, body[i:i + 1]) + raw.frame(raw.DATA, 0, 1, b""))
        c.send(raw.frame(raw.DATA, raw.END_STREAM, 1))
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM)
        Answer(pb.Event.FromString(m) for m in raw.messages(frames, 1)).adds_up()
        c.open(3, body=body[:-1])
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM)
        check(b"13" in frames[-1][3], "a stream that ends in the middle of its message is INTERNAL")
        c.close()


@test()
def broken_frames_end_the_connection():
    with Daemon() as d:
        for bad in (raw.frame(raw.DATA, 0, 0, b"x"),             # DATA on stream 0
                    raw.frame(raw.SETTINGS, 0, 0, b"12345"),     # a size that is no multiple of 6
                    raw.frame(raw.HEADERS, raw.END_HEADERS, 2, raw.hpack(raw.request_headers())),  # an even stream
                    raw.frame(raw.HEADERS, raw.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),       # no HPACK
                    raw.frame(raw.WINDOW, 0, 0, b"\0\0\0\0"),    # an increment of 0
                    b"\xff\xff\xff\0\0\0\0\0\1" + b"x" * 100):   # a frame of 16 MiB
            c = raw.Connection(d.connect())
            c.send(bad)
            frames = c.until(lambda *f: False)
            check(raw.goaway_code(frames) not in (None, 0), f"GOAWAY with an error after {bad[:12]!r}: {frames}")
        answer(d.stub().Generate(text_request(max_tokens=1)))


def flood(d, bytes_of, n):
    """Sends until the connection is closed; the GOAWAY's code and reason."""
    c = raw.Connection(d.connect())
    frames = []
    c.sock.settimeout(0)
    for i in range(n):
        try:
            c.sock.setblocking(True)
            c.sock.sendall(bytes_of(i))
        except OSError:
            break
    try:
        frames = c.until(lambda kind, flags, stream, p: kind == raw.GOAWAY, 10)
    finally:
        c.close()
    return raw.goaway_code(frames), frames[-1][3][8:]


@test()
def floods_are_cut_off():
    with Daemon(slow=True) as d:
        request = raw.message(text_request(max_tokens=LONG))

        def ping(i):
            return raw.frame(raw.PING, 0, 0, struct.pack(">Q", i))

        def rapid_reset(i):
            n = 1 + 2 * i
            return (raw.frame(raw.HEADERS, raw.END_HEADERS, n, raw.hpack(raw.request_headers())) +
                    raw.frame(raw.DATA, raw.END_STREAM, n, request) + raw.frame(raw.RST, 0, n, struct.pack(">I", raw.CANCEL)))

        def made_you_reset(i):
            n = 1 + 2 * i  # a window that overflows: the fault makes the server reset
            return (raw.frame(raw.HEADERS, raw.END_HEADERS, n, raw.hpack(raw.request_headers())) +
                    raw.frame(raw.DATA, raw.END_STREAM, n, request) + raw.frame(raw.WINDOW, 0, n, struct.pack(">I", 0x7fffffff)))

        for f, n, why in ((ping, 20000, b"too_many_pings"), (rapid_reset, 3000, b"too_many_cancels"),
                          (made_you_reset, 3000, b"too_many_invalid_frames")):
            equal(flood(d, f, n), (raw.ENHANCE_YOUR_CALM, why), f.__name__)
        slot_is_free(d.stub(), 30)


@test()
def ping_is_answered():
    with Daemon() as d:
        c = raw.Connection(d.connect())
        c.send(raw.frame(raw.PING, 0, 0, b"12345678"))
        frames = c.until(lambda kind, flags, stream, p: kind == raw.PING)
        equal((frames[-1][1], frames[-1][3]), (raw.ACK, b"12345678"))
        c.send(raw.frame(0xee, 0, 0, b"unknown frame types are skipped"))
        c.open(1, body=raw.message(text_request(max_tokens=1)))
        c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM)
        c.close()


@test(fake=True)
def engine_error_is_told():
    with Daemon(FAKE_FAIL_AT=7) as d:
        call = d.stub().Generate(text_request(max_tokens=20))
        events = []
        try:
            for ev in call:
                events.append(ev)
            raise AssertionError("no error")
        except grpc.RpcError as e:
            equal(e.code(), Code.INTERNAL)
            check("non-finite" in e.details())
        equal(len(Answer(events).ids), 7, "the ids that were drawn are told all the same")


@test(fake=True)
def a_lost_device_ends_streams_and_daemon():
    """UNAVAILABLE, with the fingerprint another daemon can go on by; then the process ends, for its supervisor to start another."""
    device_lost = -102  # ST_DEVICE
    with Daemon(status=1, FAKE_FAIL_AT=7, FAKE_FAIL_STATUS=device_lost) as d:
        call = d.stub().Generate(text_request(max_tokens=20))
        begin = next(call).begin
        try:
            for _ in call:
                pass
            raise AssertionError("no error")
        except grpc.RpcError as e:
            equal(e.code(), Code.UNAVAILABLE)
            check(begin.fingerprint in e.details(), e.details())
        d.process.wait(20)


# --- long prompts ---


@test(fake=True)
def long_prompts_are_tokenized_beside_the_loop():
    with Daemon(FAKE_CTX=2000000) as d:
        s = d.stub()
        text = "Räksmörgås och " * 60000  # about 1 MB
        a = answer(s.Generate(text_request(text, max_tokens=50)))
        check(a.begin.prompt_tokens > 60000 and text.startswith(a.content.rstrip("\ufffd")))
        a = answer(s.Chat(pb.ChatRequest(messages=[pb.Message(role="user", content=text)], stopping=pb.Stopping(max_tokens=20))))
        check(a.begin.prompt_tokens > 60000)
        calls = [s.Generate(text_request(text, max_tokens=5)) for _ in range(6)]
        begun = time.time()
        answer(s.Generate(text_request(max_tokens=3)))
        check(time.time() - begun < 1, "the loop goes on meanwhile")
        for c in calls[::2]:
            c.cancel()
        for c in calls[1::2]:
            answer(c)
        c = raw.Connection(d.connect())
        c.open(1, raw.request_headers(grpc_timeout="1m"), end=False)
        c.close()


# --- listening, draining, idling ---


@test()
def unix_socket():
    path = f"{tmp.name}/sock"
    with Daemon(listen=(f"unix:{path}", "127.0.0.1:0")) as d:
        answer(d.stub(address=f"unix:{path}").Generate(text_request(max_tokens=3)))
        answer(d.stub().Generate(text_request(max_tokens=3)))
        second = subprocess.run([Setup.outriderd, "--target", str(TARGET), *ARGS, "--listen", f"unix:{path}"], capture_output=True,
                                text=True, timeout=60)
        equal(second.returncode, 1, "a second daemon on the same path")
        check("cannot listen" in second.stderr, second.stderr)
        d.process.kill()  # leaves its socket behind
        d.process.wait()
        d.want_status = -9
    check(os.path.exists(path))
    with Daemon(listen=(f"unix:{path}",)) as d:
        answer(d.stub(address=f"unix:{path}").Generate(text_request(max_tokens=3)))
    check(not os.path.exists(path), "the socket is removed at the end")


@test()
def drain_under_load_loses_nothing():
    n = tokens(100, 20)
    with Daemon("--drain-timeout", 300, FAKE_ROUND_US=5000, FAKE_BURST=1) as d:
        stubs = [d.stub() for _ in range(4)]
        calls = [s.Generate(text_request(f"{i} ", max_tokens=n)) for s in stubs for i in range(10)]
        begun = [start(c) for c in calls]
        d.process.send_signal(signal.SIGTERM)
        eventually("draining", 5, lambda: "draining" in d.log())
        for first, rest in zip(begun, calls):
            a = Answer(first + list(rest)).adds_up()
            equal(len(a.ids), n)
        equal(d.process.wait(20), 0)
        refused(Code.UNAVAILABLE, d.stub().Generate, text_request(max_tokens=1))


@test()
def drain_sends_two_goaways():
    n = tokens(40, 15)
    with Daemon(slow=True) as d:
        c = raw.Connection(d.connect())
        c.open(1, body=raw.message(text_request(max_tokens=n)))
        frames = c.until(lambda kind, flags, stream, p: kind == raw.DATA)
        d.process.send_signal(signal.SIGTERM)
        frames += c.until(lambda kind, flags, stream, p: kind == raw.GOAWAY)
        equal(frames[-1][3][:8], struct.pack(">II", 0x7fffffff, 0), "the notice")
        c.open(3, body=raw.message(text_request(max_tokens=2)))  # crossed it on the way
        frames += c.until(lambda kind, flags, stream, p: kind == raw.PING and not flags & raw.ACK)
        c.send(raw.frame(raw.PING, raw.ACK, 0, frames[-1][3]))
        frames += c.until(lambda kind, flags, stream, p: kind == raw.GOAWAY)
        equal(frames[-1][3][:8], struct.pack(">II", 3, 0), "the last id")
        c.open(5, body=raw.message(text_request(max_tokens=2)))  # too late: never answered
        frames += c.until(lambda *f: False)
        for stream, most in ((1, n), (3, 2)):
            equal(len(Answer(pb.Event.FromString(m) for m in raw.messages(frames, stream)).adds_up().ids), most)
        check(not any(f[2] == 5 and f[0] in (raw.HEADERS, raw.DATA) for f in frames))


@test()
def drain_timeout_cuts_off():
    with one_at_a_time("--drain-timeout", 0.5, slow=True) as d:
        call = d.stub().Generate(text_request(max_tokens=LONG))
        events = start(call)
        begun = time.time()
        d.process.send_signal(signal.SIGINT)
        try:
            for ev in call:
                events.append(ev)
            raise AssertionError("the stream ended well")
        except grpc.RpcError as e:
            equal(e.code(), Code.UNAVAILABLE)
        a = Answer(events).adds_up()
        equal(a.end.finish, pb.End.CANCELLED)
        equal(d.process.wait(10), 0)
        check(time.time() - begun < 5)


@test()
def second_signal_stops_at_once():
    with Daemon(status=1, slow=True) as d:
        call = d.stub().Generate(text_request(max_tokens=LONG))
        start(call)
        d.process.send_signal(signal.SIGTERM)
        eventually("draining", 5, lambda: "draining" in d.log())
        d.process.send_signal(signal.SIGTERM)
        equal(d.process.wait(5), 1)
        refused(Code.UNAVAILABLE, lambda: call)


@test()
def idle_takes_no_cpu():
    with Daemon() as d:
        s = d.stub()
        answer(s.Generate(text_request(max_tokens=20)))
        watch = d.health().Watch(health_pb.HealthCheckRequest())
        next(watch)
        time.sleep(0.5)
        before = d.cpu_ticks()
        time.sleep(2)
        check(d.cpu_ticks() - before <= 1, f"{d.cpu_ticks() - before} ticks in 2 s")


@test()
def ready_fd():
    r, w = os.pipe()
    p = subprocess.Popen([Setup.outriderd, "--target", str(TARGET), *ARGS, "--listen", "127.0.0.1:0", "--ready-fd", str(w)],
                         pass_fds=(w,), stderr=subprocess.DEVNULL)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        equal(f.read(), b"ready\n")
    p.send_signal(signal.SIGTERM)
    equal(p.wait(20), 0)


@test()
def closed_stdio_is_held():
    """Else the log goes to whatever file or client took the number of stderr."""
    r, w = os.pipe()
    p = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", Setup.outriderd, "--target", str(TARGET), *ARGS,
                          "--listen", "127.0.0.1:0", "--ready-fd", str(w)], pass_fds=(w,))
    os.close(w)
    with os.fdopen(r, "rb") as f:
        equal(f.read(), b"ready\n")
    held = [os.readlink(f"/proc/{p.pid}/fd/{fd}") for fd in range(3)]
    p.send_signal(signal.SIGTERM)
    equal(p.wait(20), 0)
    equal(held, ["/dev/null"] * 3)


@test(fake=True)
def sigterm_while_the_model_is_read():
    with open(f"{tmp.name}/opening.log", "w+") as log:
        p = subprocess.Popen([Setup.outriderd, "--target", str(TARGET), "--listen", "127.0.0.1:0"], stderr=log,
                             env={**os.environ, "FAKE_OPEN_MS": "120000"})
        try:
            eventually("the engine is being opened", 60, lambda: "opening" in open(log.name).read())
            p.send_signal(signal.SIGTERM)
            equal(p.wait(60), -signal.SIGTERM)
        finally:
            p.kill()
