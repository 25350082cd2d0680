"""What the daemon answers and what it refuses: a real gRPC client, and bytes by hand.  test_wire.py runs these against the real
daemon, test_wire_fake.py over a fake engine; a test's name as argument runs it alone."""
import json
import os
import signal
import struct
import time

import wire_raw as raw
from wire_harness import (TARGET, Daemon, answer, check, equal, eventually, grpc, health_pb, pb, refused, test, text_request, tmp, tokens)

Code = grpc.StatusCode


# --- what is answered ---


@test()
def get_model():
    with Daemon("--model-name", "somebody") as d:
        m = d.stub().GetModel(pb.GetModelRequest())
        equal(m.name, "somebody")
        equal(m.template, "qwen3")
        gen = json.loads((TARGET / "generation_config.json").read_text())
        equal(round(m.defaults.temperature, 4), gen["temperature"])
        equal(list(m.defaults.eos_token_ids), sorted(gen["eos_token_id"]))
        check(m.fingerprint and m.device and m.version and m.tokenizer_hash and m.vocab > 0 and m.context_max > 0)


@test()
def names_are_utf8():
    """A directory may be called anything; what clients are told is UTF-8, and told whole."""
    odd = os.path.join(tmp.name, os.fsdecode(b"mod\xffel"))
    os.symlink(TARGET.resolve(), odd)
    with Daemon("--target", odd) as d:
        equal(d.stub().GetModel(pb.GetModelRequest()).name, "mod?el")
    with Daemon("--model-name", "\u00e4" * 127) as d:
        equal(d.stub().GetModel(pb.GetModelRequest()).name, "\u00e4" * 127)
        said = refused(Code.NOT_FOUND, d.stub().Generate, text_request(model="x" + "\u00e4" * 120))
        check("'x" + "\u00e4" * 99 + "\ufffd'" in said, f"half a character: {said!r}")


@test()
def log_is_not_the_clients_to_write():
    with Daemon() as d:
        name = "a\n\x1b[31mb\u0085c\\"
        equal(answer(d.stub().Generate(text_request(max_tokens=1, request_id=name))).begin.request_id, name)
        eventually("the line of the request", 60, lambda: "1 tokens of output" in d.log())
        check("request a\\x0a\\x1b[31mb\\xc2\\x85c\\x5c: 1 tokens" in d.log() and "\x1b" not in d.log(), d.log()[-500:])


@test()
def generate_text():
    with Daemon() as d:
        a = answer(d.stub().Generate(text_request(max_tokens=20)))
        equal(a.end.finish, pb.End.LENGTH)
        equal(len(a.ids), 20)
        equal(a.begin.resolved.max_tokens, 20)
        equal(a.begin.seed, a.end.seed)
        equal(a.begin.fingerprint, d.stub().GetModel(pb.GetModelRequest()).fingerprint)
        check(a.content and not a.reasoning)
        check(len(a.begin.request_id) == 32, "the server makes a request id")


@test(fake=True)
def generate_tokens_echo():
    with Daemon() as d:
        s = d.stub()
        ids = answer(s.Generate(text_request("Hello wörld 你", max_tokens=11))).ids
        r = pb.GenerateRequest(stopping=pb.Stopping(max_tokens=33, ignore_eos=True))
        r.tokens.ids.extend(ids)
        a = answer(s.Generate(r))
        equal(a.content, "Hello wörld 你" * 3)
        equal(a.ids, ids * 3)


@test()
def chat():
    with Daemon() as d:
        a = answer(d.stub().Chat(pb.ChatRequest(messages=[pb.Message(role="user", content="1+1?")],
                                                stopping=pb.Stopping(max_tokens=64))))
        check(a.end.finish in (pb.End.STOP, pb.End.LENGTH))
        if a.end.finish == pb.End.STOP:
            check(a.end.WhichOneof("matched") == "eos_token_id")
            check(a.end.eos_token_id in a.begin.resolved.eos_token_ids)
            equal(a.ids[-1], a.end.eos_token_id)
        check("<|im_end|>" not in a.content, "special tokens have no text")


@test(fake=True)
def chat_reasoning_is_told_apart():
    """The fake engine repeats the rendered prompt, here with a turn of thinking in it."""
    with Daemon() as d:
        r = pb.ChatRequest(messages=[pb.Message(role="user", content="Q"),
                                     pb.Message(role="assistant", reasoning_content="R\n\nS", content="C")],
                           continue_final_message=True, stopping=pb.Stopping(ignore_eos=True))
        n = answer(d.stub().Chat(r.__class__.FromString(r.SerializeToString()))).begin.prompt_tokens
        r.stopping.max_tokens = n
        a = answer(d.stub().Chat(r))
        equal(a.reasoning, "R\n\nS")
        equal(a.content, "user\nQ\nassistant\nC")


@test(fake=True)
def thinking_budget_closes():
    """Prompt: an open <think>; the echo never closes it, the budget does."""
    with Daemon("--thinking-close-text", "\n\nEnough.\n</think>\n\n") as d:
        r = text_request("<think>a b c d e f", max_tokens=40, thinking=pb.Thinking(budget=5))
        a = answer(d.stub().Generate(r))
        check(a.end.thinking_cut)
        equal(a.end.usage.reasoning_tokens, 5)
        check("\n\nEnough.\n</think>\n\n" in a.content, a.content)
        r = text_request("<think>a b c d e f", max_tokens=40)
        check(not answer(d.stub().Generate(r)).end.thinking_cut)


@test()
def unset_and_zero_are_told_apart():
    with Daemon() as d:
        s = d.stub()
        a = answer(s.Generate(text_request(max_tokens=2)))
        gen = json.loads((TARGET / "generation_config.json").read_text())
        equal(round(a.begin.resolved.temperature, 4), gen["temperature"])
        equal(a.begin.resolved.top_k, gen["top_k"])
        equal(round(a.begin.resolved.top_p, 4), gen["top_p"])
        equal(a.begin.resolved.thinking_budget, -1)
        zero = pb.Sampling(temperature=0, top_k=0, min_p=0, seed=0, min_tokens=0)
        a = answer(s.Generate(text_request(max_tokens=2, sampling=zero, thinking=pb.Thinking(budget=0))))
        equal(a.begin.resolved.temperature, 0)
        equal(a.begin.resolved.top_k, 0)
        equal(a.begin.seed, 0)
        equal(a.begin.resolved.thinking_budget, 0)
        check(not a.begin.resolved.thinking)
        check("max_tokens" in refused(Code.INVALID_ARGUMENT, s.Generate, text_request(max_tokens=0)))


@test()
def seeds():
    with Daemon() as d:
        s = d.stub()
        seeds = {answer(s.Generate(text_request(max_tokens=1))).begin.seed for _ in range(4)}
        equal(len(seeds), 4, "different random seeds")
        a = answer(s.Generate(text_request(max_tokens=1, sampling=pb.Sampling(seed=2**64 - 1))))
        equal(a.begin.seed, 2**64 - 1)


@test()
def request_ids():
    with Daemon() as d:
        s = d.stub()
        equal(answer(s.Generate(text_request(max_tokens=1, request_id="mine"))).begin.request_id, "mine")
        check("128" in refused(Code.INVALID_ARGUMENT, s.Generate, text_request(max_tokens=1, request_id="x" * 129)))


@test()
def stop_ids():
    with Daemon() as d:
        s = d.stub()
        greedy = pb.Sampling(temperature=0, seed=1)
        ids = answer(s.Generate(text_request("abc def", max_tokens=12, sampling=greedy))).ids
        stop = ids[5]
        r = text_request("abc def", max_tokens=12, sampling=greedy)
        r.stopping.stop_token_ids.extend([stop, stop])
        a = answer(s.Generate(r))
        equal(a.end.finish, pb.End.STOP)
        equal(a.end.stop_token_id, stop)
        equal(a.ids, ids[:ids.index(stop) + 1])


@test()
def resume_joins_without_a_seam():
    with Daemon() as d:
        s = d.stub()
        chat = pb.ChatRequest(messages=[pb.Message(role="user", content="Räksmörgås 你好 🎉 \u200d"),
                                        pb.Message(role="assistant", reasoning_content="so\n\n", content="C 你 🎉")],
                              continue_final_message=True,
                              sampling=pb.Sampling(seed=7, temperature=1),
                              stopping=pb.Stopping(max_tokens=60, ignore_eos=True))
        for call, request in ((s.Chat, chat),
                              (s.Generate, text_request("<think>你 🎉 x\n\n</think>\n\ny", 40, sampling=pb.Sampling(seed=9)))):
            whole = answer(call(request))
            for cut in range(0, len(whole.deltas), tokens(3, 16)):
                first = whole.deltas[:cut]
                given = [i for x in first for i in x.token_ids]
                if len(given) == len(whole.ids):
                    continue
                r = request.__class__()
                r.CopyFrom(request)
                r.resume.tokens.extend(given)
                r.resume.fingerprint = whole.begin.fingerprint
                r.resume.SetInParent()
                rest = answer(call(r), before=len(given))
                equal(given + rest.ids, whole.ids, f"ids after a cut at {cut}")
                equal("".join(x.content for x in first) + rest.content, whole.content, f"content after a cut at {cut}")
                equal("".join(x.reasoning for x in first) + rest.reasoning, whole.reasoning, f"reasoning after a cut at {cut}")


@test()
def resume_is_refused():
    with Daemon() as d:
        s = d.stub()
        r = text_request(max_tokens=10, sampling=pb.Sampling(seed=3))
        whole = answer(s.Generate(r))
        r.resume.tokens.extend(whole.ids[:4])
        r.resume.fingerprint = "another"
        said = refused(Code.FAILED_PRECONDITION, s.Generate, r)
        check("another" in said and whole.begin.fingerprint in said, said)
        r.resume.fingerprint = whole.begin.fingerprint
        r.sampling.ClearField("seed")
        check("seed" in refused(Code.INVALID_ARGUMENT, s.Generate, r))
        r.sampling.seed = 3
        r.resume.tokens.append(1 << 30)
        check("resume.tokens[4]" in refused(Code.INVALID_ARGUMENT, s.Generate, r))
        del r.resume.tokens[:]
        r.resume.tokens.extend(whole.ids)
        rest = answer(s.Generate(r), before=len(whole.ids))
        equal((rest.ids, rest.content, rest.end.finish), ([], "", whole.end.finish), "what is left of a whole answer")
        r.resume.tokens.append(whole.ids[0])
        check("the answer ends with token" in refused(Code.INVALID_ARGUMENT, s.Generate, r))


@test()
def health_check_and_watch():
    with Daemon() as d:
        h = d.health()
        for service in ("", "outrider.v1.Inference"):
            equal(h.Check(health_pb.HealthCheckRequest(service=service)).status, health_pb.HealthCheckResponse.SERVING)
        refused(Code.NOT_FOUND, h.Check, health_pb.HealthCheckRequest(service="nobody"))
        known = h.Watch(health_pb.HealthCheckRequest(service="outrider.v1.Inference"))
        equal(next(known).status, health_pb.HealthCheckResponse.SERVING)
        unknown = h.Watch(health_pb.HealthCheckRequest(service="nobody"))
        equal(next(unknown).status, health_pb.HealthCheckResponse.SERVICE_UNKNOWN)
        time.sleep(0.2)
        check(unknown.is_active(), "a watch of an unknown service stays open")
        d.process.send_signal(signal.SIGTERM)
        equal(next(known).status, health_pb.HealthCheckResponse.NOT_SERVING)
        refused(Code.UNAVAILABLE, lambda: known)


# --- what is refused ---


@test()
def unknown_methods():
    with Daemon() as d:
        c = d.channel()
        for path in ("/outrider.v1.Inference/Nope", "/nobody.v1.Nothing/Nope", "/outrider.v1.Inference/chat", "/x"):
            refused(Code.UNIMPLEMENTED, c.unary_unary(path), b"")


@test()
def oversize_message():
    with Daemon("--max-message-bytes", "64K") as d:
        s = d.stub()
        said = refused(Code.RESOURCE_EXHAUSTED, s.Generate, text_request("x" * 100000, max_tokens=1))
        check("65536" in said and "--max-message-bytes" in said, said)
        answer(s.Generate(text_request(max_tokens=1)))


@test()
def oversize_is_refused_before_it_is_buffered():
    with Daemon() as d:
        before = d.rss_kib()
        c = raw.Connection(d.connect())
        c.open(1, body=b"\0" + struct.pack(">I", 0xfffffff0), end=False)
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM)
        check(frames[-1][0] == raw.HEADERS)
        check(d.rss_kib() - before < 8192, "memory was taken for what was only announced")
        c.close()


@test()
def garbage_protobuf():
    with Daemon() as d:
        c = d.channel()
        for method in ("Chat", "Generate", "GetModel"):
            call = c.unary_stream(f"/outrider.v1.Inference/{method}")
            for junk in (b"\xff" * 20, b"\x0a\x7fabc", b"\x07", b"\x0a"):
                refused(Code.INTERNAL, call, junk)
        refused(Code.INTERNAL, c.unary_unary("/grpc.health.v1.Health/Check"), b"\xff\xff")


@test()
def bad_strings():
    with Daemon() as d:
        call = d.channel().unary_stream("/outrider.v1.Inference/Generate")
        said = refused(Code.INVALID_ARGUMENT, call, b"\x0a\x05ab\xffcd")
        check("offset 2" in said and "text" in said, said)
        said = refused(Code.INVALID_ARGUMENT, call, b"\x0a\x05ab\x00cd")
        check("NUL" in said and "offset 2" in said, said)
        # A surrogate, an overlong form, a cut character, in a nested message.
        call = d.channel().unary_stream("/outrider.v1.Inference/Chat")
        for bad in (b"\xed\xa0\x80", b"\xc0\x80", b"\xf0\x9f\x8e"):
            inner = b"\x0a\x04user\x12" + bytes([len(bad)]) + bad
            said = refused(Code.INVALID_ARGUMENT, call, b"\x0a" + bytes([len(inner)]) + inner)
            check("Message.content" in said, said)


@test()
def cardinality():
    with Daemon() as d:
        c = d.channel()
        m = text_request(max_tokens=1).SerializeToString()
        path = "/outrider.v1.Inference/Generate"
        refused(Code.UNIMPLEMENTED, c.stream_stream(path), iter([]))
        refused(Code.UNIMPLEMENTED, c.stream_stream(path), iter([m, m]))


@test()
def compressed_flag_without_encoding():
    with Daemon() as d:
        c = raw.Connection(d.connect())
        c.open(1, body=b"\1" + raw.message(text_request(max_tokens=1))[1:])
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS)
        check(frames[-1][1] & raw.END_STREAM and b"13" in frames[-1][3], "a compressed flag without encoding is INTERNAL")
        c.close()


@test()
def parameters_out_of_range():
    with Daemon() as d:
        s = d.stub()

        def bad(word, **kw):
            said = refused(Code.INVALID_ARGUMENT, s.Generate, text_request(max_tokens=4, **kw))
            check(word in said, said)

        bad("temperature", sampling=pb.Sampling(temperature=-1))
        bad("temperature", sampling=pb.Sampling(temperature=float("nan")))
        bad("top_k", sampling=pb.Sampling(top_k=-1))
        bad("top_p", sampling=pb.Sampling(top_p=0))
        bad("min_p", sampling=pb.Sampling(min_p=2))
        bad("min_tokens", sampling=pb.Sampling(min_tokens=5))
        bad("banned_token_ids", sampling=pb.Sampling(banned_token_ids=[1 << 30]))
        bad("allowed_token_ids", sampling=pb.Sampling(allowed_token_ids=[-1]))
        bad("budget", thinking=pb.Thinking(budget=-2))
        bad("enabled", thinking=pb.Thinking(enabled=True))
        bad("nodes", speculation=pb.Speculation(mode=pb.Speculation.NODES, nodes=65))
        bad("nodes", speculation=pb.Speculation(mode=pb.Speculation.NODES))
        bad("mode", speculation=pb.Speculation(mode=9))
        said = refused(Code.INVALID_ARGUMENT, s.Generate, pb.GenerateRequest())
        check("prompt" in said, said)
        said = refused(Code.INVALID_ARGUMENT, s.Generate, pb.GenerateRequest(text=""))
        check("empty" in said, said)
        said = refused(Code.INVALID_ARGUMENT, s.Generate, pb.GenerateRequest(tokens=pb.TokenIds(ids=[-5])))
        check("prompt.tokens[0]" in said, said)
        said = refused(Code.INVALID_ARGUMENT, s.Chat, pb.ChatRequest())
        check("messages" in said, said)
        said = refused(Code.INVALID_ARGUMENT, s.Chat, pb.ChatRequest(messages=[pb.Message(role="king", content="x")]))
        check("king" in said, said)
        refused(Code.NOT_FOUND, s.Generate, text_request(model="other"))
        refused(Code.FAILED_PRECONDITION, s.Generate, text_request(fingerprint="other"))


@test()
def context_limit():
    ctx = 256
    with Daemon("--ctx", ctx) as d:
        s = d.stub()
        equal(s.GetModel(pb.GetModelRequest()).context_max, ctx)
        said = refused(Code.INVALID_ARGUMENT, s.Generate, text_request("a b c", max_tokens=ctx))
        check(str(ctx) in said and "max_tokens" in said, said)
        r = pb.GenerateRequest(tokens=pb.TokenIds(ids=[1] * ctx))
        said = refused(Code.INVALID_ARGUMENT, s.Generate, r)
        check(f"{ctx} tokens" in said, said)
        r = pb.GenerateRequest(tokens=pb.TokenIds(ids=[1] * (ctx - 3)), stopping=pb.Stopping(ignore_eos=True))
        a = answer(s.Generate(r))
        equal(a.begin.resolved.max_tokens, 3, "unset max_tokens is the rest of the context")
        equal(len(a.ids), 3)


@test()
def header_limit():
    with Daemon("--max-header-bytes", "2K") as d:
        c = raw.Connection(d.connect())
        c.open(1, raw.request_headers(**{"x-long": "v" * 3000}), raw.message(text_request(max_tokens=1)))
        frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS)
        check(frames[-1][1] & raw.END_STREAM and b"431" in frames[-1][3], "431 and trailers in one")
        c.open(3, raw.request_headers(**{"x-long": "v" * 300}), raw.message(text_request(max_tokens=1)))
        check(len(raw.messages(c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM), 3)) >= 3)
        c.close()


@test()
def not_grpc_over_http2():
    with Daemon() as d:
        for i, (headers, status) in enumerate((
                (raw.request_headers(content_type="text/html"), b"415"),
                (raw.request_headers(content_type="application/grpc+json"), b"415"),
                (raw.request_headers(grpc_timeout="10"), b"\x8c"),
                ([(k, "GET" if k == ":method" else v) for k, v in raw.request_headers()], b"405"))):
            c = raw.Connection(d.connect())
            c.open(1, headers, b"")
            last = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS)[-1]
            check(status in last[3] and last[1] & raw.END_STREAM, f"case {i}: {last}")
            c.close()
        c = raw.Connection(d.connect())
        c.open(1, [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")])
        frames = c.until(lambda kind, flags, stream, p: kind == raw.DATA)
        check(b"gRPC" in frames[-1][3])
        c.close()
