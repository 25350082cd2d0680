"""Two servers for the client's tests.

FakeServer: grpcio, answers like a daemon.  A token is one character of a text made from the prompt; what the last message (or
the raw prompt) says decides what happens, see FakeServer.answer.  It keeps the requests it got and whether they were cancelled.

RawServer: HTTP/2 frames written by hand, for what grpcio would never send.
"""
import concurrent.futures
import socket
import struct
import threading
import time

import grpc

from stubs import pb, rpc, health_pb

FINGERPRINT = "fake-1:0123456789abcdef"
OPEN, CLOSE = 1001, 1002  # token ids of <think> and </think>
ENOUGH = " Enough."  # the reasoning's last words where a ChatStream was told to stop thinking


def tokens_of(prompt, thinking):
    """The answer as tokens: (id, reasoning, content)."""
    out = []
    if thinking:
        out += [(OPEN, "", "")] + [(ord(c), c, "") for c in f"Let me think about {prompt}."] + [(CLOSE, "", "")]
    return out + [(ord(c), "", c) for c in f"You said: {prompt}. That is \u00e9\u4e16\U0001f600 all."]


def serialize(message):
    return message if isinstance(message, bytes) else message.SerializeToString()


class FakeServer:
    """serving: health; requests: (method, request, metadata, seconds left) as they came; cancelled: set when a call was; given: of
    `many`, how many deltas were taken off its hands; controls: what ChatStreams were told after their requests."""

    def __init__(self, address, chunk=3):
        self.chunk, self.serving, self.requests, self.cancelled, self.given = chunk, True, [], threading.Event(), 0
        self.controls = []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        stream = lambda f, kind: grpc.unary_stream_rpc_method_handler(f, kind.FromString, serialize)
        unary = lambda f, kind: grpc.unary_unary_rpc_method_handler(f, kind.FromString, serialize)
        self.server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler("outrider.v1.Inference", {
                "Chat": stream(self.chat, pb.ChatRequest),
                "ChatStream": grpc.stream_stream_rpc_method_handler(self.chat_stream, pb.ChatControl.FromString, serialize),
                "Generate": stream(self.generate, pb.GenerateRequest),
                "GetModel": unary(self.model, pb.GetModelRequest)}),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {
                "Check": unary(self.check, health_pb.HealthCheckRequest)})))
        port = self.server.add_insecure_port(address)
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        self.server.start()

    def stop(self, grace=None):
        self.server.stop(grace).wait()

    def note(self, method, request, context):
        """-> a list to put something into once all is said: a call that ends before was cancelled."""
        said = []
        self.requests.append((method, request, dict(context.invocation_metadata()), context.time_remaining()))
        context.add_callback(lambda: context.code() is None and not said and self.cancelled.set())
        return said

    def check(self, request, context):
        self.note("Check", request, context).append(1)
        if request.service not in ("", "outrider.v1.Inference"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service}")
        kinds = health_pb.HealthCheckResponse
        return kinds(status=kinds.SERVING if self.serving else kinds.NOT_SERVING)

    def model(self, request, context):
        self.note("GetModel", request, context).append(1)
        return pb.Model(name="fake", fingerprint=FINGERPRINT, device="none \x1b[31m", version="0", context_max=2048, vocab=905, sessions_max=4,
                        queue_max=16, draft="", template="qwen3", tokenizer_hash="abc",
                        defaults=pb.Resolved(temperature=0.5, top_k=20, top_p=0.95, max_tokens=100, thinking=True, thinking_budget=-1))

    def chat_stream(self, controls, context):
        request, stop = next(controls).request, threading.Event()

        def listen():
            try:
                for c in controls:
                    self.controls.append(c.WhichOneof("control"))
                    if c.HasField("stop_thinking"):
                        stop.set()
            except Exception:  # grpcio's own word for a call that is over
                pass

        threading.Thread(target=listen, daemon=True).start()
        yield from self.chat(request, context, "ChatStream", stop)

    def chat(self, request, context, method="Chat", stop=threading.Event()):
        said = self.note(method, request, context)
        off = request.thinking.HasField("enabled") and not request.thinking.enabled or request.thinking.HasField("budget") and request.thinking.budget == 0
        yield from self.answer(request, context, request.messages[-1].content, not off, stop)
        said.append(1)

    def generate(self, request, context):
        said = self.note("Generate", request, context)
        prompt = request.text if request.WhichOneof("prompt") == "text" else "ids " + " ".join(map(str, request.tokens.ids))
        yield from self.answer(request, context, prompt, False)
        said.append(1)

    def answer(self, request, context, prompt, thinking, stop=threading.Event()):
        """`refuse CODE TEXT`: that status at once; `late TEXT`: INTERNAL after three tokens; `slow`: 20 ms a delta; `control`: escape codes;
        `many N`: N deltas of 100 bytes; `huge N`: one delta of N bytes; `length X`: the length of X; `garbage`, `noend`, `order`, `utf8`: broken streams."""
        word, _, rest = prompt.partition(" ")
        if word == "refuse":
            code, _, text = rest.partition(" ")
            context.abort(grpc.StatusCode[code], text)
        if request.HasField("resume") and request.resume.fingerprint != FINGERPRINT or request.fingerprint not in ("", FINGERPRINT):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"this daemon is {FINGERPRINT}")
        seed = request.sampling.seed if request.sampling.HasField("seed") else 2**64 - 5
        if word != "order":
            yield pb.Event(begin=pb.Begin(request_id="r1", seed=seed, fingerprint=FINGERPRINT, prompt_tokens=7, cached_tokens=2,
                                          resolved=pb.Resolved(temperature=request.sampling.temperature, thinking=thinking, thinking_budget=-1)))
        yield from self.body(request, context, prompt, word, rest, thinking, stop)
        if word == "noend":
            return
        yield pb.Event(end=pb.End(finish=pb.End.STOP, eos_token_id=898, seed=seed, thinking_cut=word == "cut",
                                  usage=pb.Usage(prompt_tokens=7, completion_tokens=40, reasoning_tokens=9, cached_tokens=2),
                                  timings=pb.Timings(queue_ms=0.5, prefill_ms=2, decode_ms=20, first_token_ms=3.25),
                                  speculation=pb.SpeculationFigures(passes=10, drafted=60, accepted=30, drafted_by_depth=[10, 10], accepted_by_depth=[9, 8])))

    def body(self, request, context, prompt, word, rest, thinking, stop):
        delta = lambda **k: pb.Event(delta=pb.Delta(**k))
        if word == "many":
            for i in range(int(rest)):
                self.given = i + 1
                yield delta(content=f"{i:099}\n", token_ids=[1])
        elif word == "huge":
            yield delta(content="x" * int(rest), token_ids=[1])
        elif word == "length":
            yield delta(content=str(len(rest)), token_ids=[1])
        elif word == "control":
            yield delta(content="\x1b[2J\x07\rred\u009b31m \u202egnp\ttab \u4e16\n", token_ids=[1])
        elif word == "garbage":
            yield b"\xff\xff\xff"
        elif word == "utf8":
            yield b"\x12\x04\x12\x02\xff\xfe"
        else:
            left, first = tokens_of(prompt, thinking)[len(request.resume.tokens):], True
            while left:
                if word == "late" and not first:
                    context.abort(grpc.StatusCode.INTERNAL, rest)
                if word == "slow":
                    time.sleep(0.02)
                if stop.is_set() and left[0][1]:  # reasoning
                    left = [(ord(c), c, "") for c in ENOUGH] + [t for t in left if not t[1]]
                    stop.clear()
                part, left, first = left[:self.chunk], left[self.chunk:], False
                yield delta(token_ids=[t[0] for t in part], reasoning="".join(t[1] for t in part), content="".join(t[2] for t in part))


# --- frames by hand ---

def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(stream, pairs, end=False):
    """Literal header fields without indexing, no Huffman (RFC 7541 section 6.2.2); names and values under 127 bytes."""
    block = b"".join(b"\0" + bytes([len(k)]) + k.encode() + bytes([len(v)]) + v.encode() for k, v in pairs)
    return frame(1, 5 if end else 4, stream, block)


def data(stream, payload, end=False):
    return frame(0, 1 if end else 0, stream, payload)


def message(payload, flag=0):
    return bytes([flag]) + struct.pack(">I", len(payload)) + payload


def settings():
    return frame(4, 0, 0)


def goaway(last, code, text=b""):
    return frame(7, 0, 0, struct.pack(">II", last, code) + text)


def reset(stream, code):
    return frame(3, 0, stream, struct.pack(">I", code))


OK = [(":status", "200"), ("content-type", "application/grpc")]


class RawServer:
    """Answers the first request of each connection with `script`: bytes to send, or a float to sleep; then closes, or, with
    `hold`, waits until the client has closed.  open: the client's side stays open, its first DATA is the request.  got: all bytes received on the last connection."""

    def __init__(self, script, hold=False, open=False):
        self.script, self.hold, self.open, self.got = script, hold, open, b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer:
                try:
                    self.serve(peer)
                except OSError:
                    pass

    def serve(self, peer):
        self.got = b""
        peer.settimeout(150)  # as patient as the client's tests; a sanitizer build on a busy machine needs more than 10
        while not self.asked():
            self.take(peer)
        for step in self.script:
            if isinstance(step, float):
                time.sleep(step)
            else:
                peer.sendall(step)
        while self.hold and self.take(peer):
            pass

    def take(self, peer):
        some = peer.recv(65536)
        if not some:
            if not self.asked():
                raise OSError("gone")
            return False
        self.got += some
        return True

    def frames(self):
        """(kind, flags, stream, payload) of what came, the preface left out."""
        at = 24
        while at + 9 <= len(self.got):
            n = int.from_bytes(self.got[at:at + 3], "big")
            if at + 9 + n > len(self.got):
                return
            yield self.got[at + 3], self.got[at + 4], int.from_bytes(self.got[at + 5:at + 9], "big"), self.got[at + 9:at + 9 + n]
            at += 9 + n

    def asked(self):
        return any(kind in (0, 1) and (flags & 1 or self.open and kind == 0) for kind, flags, _, _ in self.frames())

    def stop(self):
        self.listener.close()
