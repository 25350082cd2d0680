"""Stop strings, n answers, steering, tokens, reflection, compression, figures.  Run as wire_answers.py is."""
import json
import queue
import signal
import struct
import time
import zlib

import wire_raw as raw
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from stubs import reflection_pb
from wire_harness import (LONG, TARGET, Answer, Daemon, Setup, answer, check, equal, eventually, grpc, pb, refused, test, text_request,
                          tokens)

Code = grpc.StatusCode
OFF, NODES = pb.Speculation.OFF, pb.Speculation.NODES
SPECULATIONS = [pb.Speculation(mode=OFF), pb.Speculation(), pb.Speculation(mode=NODES, nodes=64)]


def stopped(request, *stops):
    r = request.__class__()
    r.CopyFrom(request)
    r.stopping.stop.extend(stops)
    return r


# --- stop strings ---


def first_match(content, stops):
    """(beginning, string) of the match whose end comes first, of those the longest; or None."""
    found = [(content.index(s) + len(s), -len(s), s) for s in stops if s in content]
    return (min(found)[0] + min(found)[1], min(found)[2]) if found else None


def ask_stopped(call, request, stops, whole):
    """The answer with stop strings, held against what a search of the whole answer says."""
    a = answer(call(stopped(request, *stops)))
    at, word = first_match(whole.content, stops)
    equal(a.content, whole.content[:at], f"content before {stops}")
    equal(a.end.finish, pb.End.STOP)
    equal(a.end.stop_string, word)
    equal(a.ids, whole.ids[:len(a.ids)])
    equal(a.end.usage.completion_tokens, len(a.ids))
    check(a.end.usage.reasoning_tokens <= len(a.ids))
    return a


@test()
def stop_strings_cross_tokens():
    with Daemon("--max-sessions", 4) as d:
        s = d.stub()
        chat = pb.ChatRequest(messages=[pb.Message(role="user", content="What is 44 times 4?")], thinking=pb.Thinking(budget=12),
                              sampling=pb.Sampling(seed=5, temperature=0.7), stopping=pb.Stopping(max_tokens=70, ignore_eos=True))
        plain = text_request("one two three four five six", 40, sampling=pb.Sampling(seed=9, temperature=0.5))
        for call, request in (s.Chat, chat), (s.Generate, plain):
            whole = answer(call(request))
            content = whole.content
            check(len(content) > 20, content)
            for at in range(3, len(content) - 9, max(1, len(content) // tokens(8, 5))):
                stops = [content[at:at + 7], content[at + 2:at + 5]]
                results = []
                for spec in SPECULATIONS:
                    request.speculation.CopyFrom(spec)
                    a = ask_stopped(call, request, stops, whole)
                    results.append((a.content, a.reasoning, a.ids, a.end.usage.completion_tokens, a.end.usage.reasoning_tokens))
                check(all(r == results[0] for r in results), f"stop {stops}: {results}")


@test()
def stop_string_resumed_in_half_a_match():
    """The stream breaks while half of the match has been generated; whoever resumes it finds the other half."""
    with Daemon() as d:
        s = d.stub()
        request = text_request("one two three four five six", 40, sampling=pb.Sampling(seed=9, temperature=0.5))
        whole = answer(s.Generate(request))
        middle = len(whole.content) // 2
        word = whole.content[middle:middle + 9]
        want = ask_stopped(s.Generate, request, [word], whole)
        for n in range(len(want.ids) + 1):
            r = stopped(request, word)
            r.resume.tokens.extend(want.ids[:n])
            r.resume.fingerprint = whole.begin.fingerprint
            r.resume.SetInParent()
            r.sampling.seed = whole.begin.seed
            rest = answer(s.Generate(r), before=n)
            equal(want.ids[:n] + rest.ids, want.ids)
            check(want.content.endswith(rest.content), f"{rest.content!r} is not the end of {want.content!r}")
            equal(rest.end.stop_string, word)
        r.resume.tokens.append(whole.ids[len(want.ids)])
        check("the answer ends with token" in refused(Code.INVALID_ARGUMENT, s.Generate, r))


@test(fake=True)
def stop_string_resumes_a_broken_stream():
    """Deltas up to any event, then a resume: the parts join, and the half that was held back is said once."""
    with Daemon(FAKE_BURST=1) as d:
        s = d.stub()
        request = text_request("ab abc abcd abcde ", 60, sampling=pb.Sampling(seed=1))
        for word in "abcd ab", "e a", "cde ab abc":
            events = list(s.Generate(stopped(request, word)))
            want = Answer(events).adds_up()
            equal(want.content, ("ab abc abcd abcde " * 10).split(word)[0])
            for cut in range(1, len(events) - 1):
                first = Answer(events[:cut])
                r = stopped(request, word)
                r.resume.tokens.extend(first.ids)
                r.resume.SetInParent()
                rest = answer(s.Generate(r), before=len(first.ids))
                equal(first.content + rest.content, want.content, f"stop {word!r} cut at {cut}")
                equal(first.ids + rest.ids, want.ids)


@test(fake=True)
def stop_strings_are_of_the_content():
    with Daemon() as d:
        s = d.stub()
        chat = pb.ChatRequest(messages=[pb.Message(role="user", content="Q"),
                                        pb.Message(role="assistant", reasoning_content="STOP here", content="and STOP here")],
                              continue_final_message=True, stopping=pb.Stopping(ignore_eos=True, stop=["STOP"]))
        a = answer(s.Chat(chat))
        equal((a.content, a.reasoning, a.end.stop_string), ("user\nQ\nassistant\nand ", "STOP here", "STOP"))
        a = answer(s.Generate(stopped(text_request("a STOP b", 40), "STOP")))
        equal(a.content, "a ")


@test()
def stop_strings_are_checked():
    with Daemon() as d:
        s = d.stub()
        for stops, word in ((["x"] * 17, "17"), ([""], "0 bytes"), (["y" * 257], "257")):
            check(word in refused(Code.INVALID_ARGUMENT, s.Generate, stopped(text_request(max_tokens=4), *stops)))
        answer(s.Generate(stopped(text_request(max_tokens=4), *[f"{i} never said" for i in range(16)])))


# --- what shapes the draw ---


def sampled(max_tokens=24, spec=None, **kw):
    r = text_request("one two three one two three", max_tokens, sampling=pb.Sampling(seed=8, **kw))
    if spec:
        r.speculation.CopyFrom(spec)
    return r


@test(real=True)
def penalties_and_bias_reach_the_draw():
    with Daemon() as d:
        s = d.stub()
        plain = answer(s.Generate(sampled(temperature=0)))
        equal((plain.begin.resolved.repetition_penalty, plain.begin.resolved.presence_penalty), (1, 0))
        for name, value in ("repetition_penalty", 1.9), ("presence_penalty", 2), ("frequency_penalty", 2):
            got = [answer(s.Generate(sampled(spec=spec, temperature=0, **{name: value}))) for spec in SPECULATIONS]
            equal(got[0].ids, got[1].ids, name)
            equal(got[0].ids, got[2].ids, name)
            equal(round(getattr(got[0].begin.resolved, name), 4), value)
            check(len(set(got[0].ids)) > len(set(plain.ids)), f"{name} makes for more different tokens")
        wanted = next(i for i in range(300, 400) if i not in plain.ids)
        bias = [pb.LogitBias(token=wanted, bias=100), pb.LogitBias(token=3, bias=-100)]
        equal(set(answer(s.Generate(sampled(temperature=0, logit_bias=bias))).ids), {wanted})
        for bad, word in (({"repetition_penalty": 0}, "repetition"), ({"presence_penalty": 3}, "presence"), ({"frequency_penalty": -3}, "frequency"),
                          ({"logit_bias": bias[:1] * 2}, "logit_bias"), ({"logit_bias": [pb.LogitBias(token=-1)]}, "logit_bias"),
                          ({"logprobs": pb.Logprobs(top=21)}, "logprobs")):
            check(word in refused(Code.INVALID_ARGUMENT, s.Generate, sampled(**bad)))


@test(real=True)
def logprobs_ride_with_their_tokens():
    with Daemon() as d:
        s = d.stub()
        results = []
        for spec in SPECULATIONS:
            a = answer(s.Generate(sampled(spec=spec, temperature=0.8, top_k=5, logprobs=pb.Logprobs(top=3, processed=True))))
            check(all(len(x.logprobs) == len(x.token_ids) for x in a.deltas), "one a token")
            each = [x for delta in a.deltas for x in delta.logprobs]
            for i, x in zip(a.ids, each):
                check(x.HasField("logprob") and x.logprob <= 0 and x.HasField("processed"))
                equal(len(x.top), 3)
                check(x.top[0].logprob >= x.top[1].logprob >= x.top[2].logprob)
                for t in x.top:
                    check(t.token != i or (t.logprob, t.processed) == (x.logprob, x.processed))
            results.append((a.ids, [x.SerializeToString() for x in each]))
        check(all(r == results[0] for r in results), "logprobs are the target's, drafted or not")
        a = answer(s.Generate(sampled(logprobs=pb.Logprobs())))
        check(all(x.HasField("logprob") and not x.top and not x.HasField("processed") for delta in a.deltas for x in delta.logprobs))
        check(not any(x.logprobs for x in answer(s.Generate(sampled())).deltas), "none where none were asked for")
        cut = answer(s.Generate(stopped(sampled(logprobs=pb.Logprobs()), a.content[9:14])))
        equal([x.logprob for delta in cut.deltas for x in delta.logprobs],
              [x.logprob for delta in a.deltas for x in delta.logprobs][:len(cut.ids)])


@test(real=True)
def choices_are_kept_to():
    with Daemon() as d:
        s = d.stub()
        words = ["yes", "no", "perhaps not"]
        constraint = pb.Constraint(choices=pb.Choices(choice=words))
        for seed in range(6):
            got = []
            for spec in SPECULATIONS:
                r = pb.ChatRequest(messages=[pb.Message(role="user", content="Is it so?")], thinking=pb.Thinking(budget=8), speculation=spec,
                                   sampling=pb.Sampling(seed=seed, temperature=1, constraint=constraint))
                a = answer(s.Chat(r))
                equal(a.end.finish, pb.End.STOP)
                check(a.content in words, a.content)
                got.append(a.ids)
            check(got[0] == got[1] == got[2])
        for choice in [], [""], ["x"] * 600:
            r.sampling.constraint.choices.choice[:] = choice
            check("choice" in refused(Code.INVALID_ARGUMENT, s.Chat, r))


# --- n answers ---


def by_choice(stream):
    """Events of each choice, as (content, ids, End); Begin comes once."""
    events = list(stream)
    check(events[0].HasField("begin") and not any(e.HasField("begin") for e in events[1:]), "one Begin, first")
    out = {}
    for e in events[1:]:
        m = e.delta if e.HasField("delta") else e.end
        a = out.setdefault(m.choice, {"content": "", "ids": [], "end": None})
        check(a["end"] is None, "an event after a choice's End")
        if e.HasField("delta"):
            a["content"] += m.content
            a["ids"] += m.token_ids
        else:
            a["end"] = m
    return events[0].begin, out


@test()
def n_answers():
    with Daemon() as d:
        s = d.stub()
        request = text_request("one two three", 16, sampling=pb.Sampling(seed=4, temperature=1, n=4))
        begin, got = by_choice(s.Generate(request))
        equal(sorted(got), [0, 1, 2, 3])
        equal(begin.resolved.n, 4)
        equal(sum(a["end"].usage.prompt_tokens for a in got.values()), begin.prompt_tokens, "the prompt is counted once")
        for i, a in got.items():
            equal(len(a["ids"]), 16)
            equal(a["end"].usage.completion_tokens, 16)
            r = pb.GenerateRequest()
            r.CopyFrom(request)
            r.resume.choice = i
            r.resume.tokens.extend(a["ids"][:5])
            _, rest = by_choice(s.Generate(r))
            equal(list(rest), [i])
            equal(a["ids"][:5] + rest[i]["ids"], a["ids"], f"choice {i} resumed")
        check(len({tuple(a["ids"]) for a in got.values()}) > 1, "the choices differ")
        for n in 0, 9:
            request.sampling.n = n
            check("sampling.n" in refused(Code.INVALID_ARGUMENT, s.Generate, request))


@test()
def n_answers_stop_one_by_one():
    with Daemon() as d:
        s = d.stub()
        request = text_request("one two three", 20, sampling=pb.Sampling(seed=4, temperature=1, n=3))
        _, whole = by_choice(s.Generate(request))
        word = whole[1]["content"][5:8]
        _, got = by_choice(s.Generate(stopped(request, word)))
        for i in range(3):
            equal(got[i]["content"], whole[i]["content"].split(word)[0])
            equal(got[i]["end"].stop_string, word if word in whole[i]["content"] else "")


# --- steering ---


class Controls:
    """What the client says on a ChatStream, as it comes to mind."""

    def __init__(self, request):
        self.queue = queue.Queue()
        self.say(request=request)

    def say(self, **kw):
        self.queue.put(pb.ChatControl(**kw))

    def close(self):
        self.queue.put(None)

    def __iter__(self):
        return iter(self.queue.get, None)


def chat_request(max_tokens, content="a b c d e f g h", **kw):
    return pb.ChatRequest(messages=[pb.Message(role="user", content=content)],
                          stopping=pb.Stopping(max_tokens=max_tokens, ignore_eos=True), **kw)


@test()
def chat_stream_answers_as_chat():
    with Daemon() as d:
        s = d.stub()
        request = chat_request(30, sampling=pb.Sampling(seed=3))
        want = answer(s.Chat(request))
        for closes in True, False:
            c = Controls(request)
            if closes:
                c.close()
            got = answer(s.ChatStream(iter(c)))
            equal((got.ids, got.content, got.reasoning), (want.ids, want.content, want.reasoning))
            c.close()


@test()
def chat_stream_is_cancelled_by_a_word():
    with Daemon(slow=True) as d:
        c = Controls(chat_request(LONG))
        call = d.stub().ChatStream(iter(c))
        events = [next(call), next(call)]
        c.say(cancel=pb.Cancel())
        a = Answer(events + list(call)).adds_up()
        equal(a.end.finish, pb.End.CANCELLED)
        check(len(a.ids) < LONG)
        c.close()


@test()
def chat_stream_is_refused():
    with Daemon(slow=True) as d:
        s = d.stub()
        check("first message" in refused(Code.INVALID_ARGUMENT, s.ChatStream, iter([pb.ChatControl(cancel=pb.Cancel())])))
        check("before its request" in refused(Code.INVALID_ARGUMENT, s.ChatStream, iter([])))
        twice = [pb.ChatControl(request=chat_request(LONG))] * 2
        check("one call, one answer" in refused(Code.INVALID_ARGUMENT, s.ChatStream, iter(twice)))
        check("no control" in refused(Code.INVALID_ARGUMENT, s.ChatStream, iter([twice[0], pb.ChatControl()])))
        refused(Code.INVALID_ARGUMENT, s.ChatStream, iter([pb.ChatControl(request=pb.ChatRequest())]))
        answer(s.Generate(text_request(max_tokens=1)))


def thinking_request(max_tokens=LONG, **kw):
    """The prompt ends inside <think>, and the answer goes on thinking: the fake engine repeats what stands there, the real one has end of
    text and </think> masked."""
    r = text_request("<think>a b c d e f", max_tokens, thinking=pb.Thinking(**kw), sampling=pb.Sampling(seed=6, temperature=0.8))
    if not Setup.fake:
        r.sampling.banned_token_ids.extend(added_ids("</think>", "<tool_call>"))
    return r


def added_ids(*names):
    vocab = {t["content"]: t["id"] for t in json.loads((TARGET / "tokenizer.json").read_text())["added_tokens"]}
    return [vocab[n] for n in names]


def closed_by(deltas):
    return [x.closed_at for x in deltas if x.HasField("closed_at")]


@test()
def thinking_deadline_closes():
    with Daemon("--thinking-close-text", "\n\nEnough.\n</think>\n\n", slow=True) as d:
        s = d.stub()
        r = thinking_request(tokens(90, 120), deadline_ms=tokens(600, 100))
        a = answer(s.Generate(r))
        [at] = closed_by(a.deltas)
        equal(a.end.closed_at, at)
        check(0 <= at < len(a.ids), f"closed after {at} of {len(a.ids)}")
        check("\n\nEnough.\n</think>\n\n" in a.content, a.content)
        check(not a.end.thinking_cut, "the clock is not the budget")
        equal(a.begin.resolved.thinking_deadline_ms, r.thinking.deadline_ms)
        for n in (at, at + 1, at + 3, len(a.ids) - 1)[::tokens(1, 2)]:  # resumed, the clock plays no part any more
            again = thinking_request(r.stopping.max_tokens, deadline_ms=1)
            again.resume.tokens.extend(a.ids[:n])
            again.resume.closed_at = at
            rest = answer(s.Generate(again), before=n)
            equal(a.ids[:n] + rest.ids, a.ids, f"resumed after {n}")
        for n, word in ((-1, "deadline_ms"), (1 << 30, "deadline_ms")):
            check(word in refused(Code.INVALID_ARGUMENT, s.Generate, thinking_request(4, deadline_ms=n)))
        again.resume.closed_at = len(a.ids) + 1
        check("closed_at" in refused(Code.INVALID_ARGUMENT, s.Generate, again))


@test(fake=True)
def thinking_is_stopped_by_a_word():
    """The fake engine repeats the prompt, whose last <think> stays open."""
    with Daemon("--thinking-close-text", "\n\nEnough.\n</think>\n\n", slow=True) as d:
        request = pb.ChatRequest(messages=[pb.Message(role="user", content="Q"), pb.Message(role="assistant", content="<think>")],
                                 stopping=pb.Stopping(max_tokens=60, ignore_eos=True))
        c = Controls(request)
        call = d.stub().ChatStream(iter(c))
        events = [next(call), next(call)]
        c.say(stop_thinking=pb.StopThinking())
        a = Answer(events + list(call)).adds_up()
        equal(len(a.ids), 60)
        for at in closed_by(a.deltas):
            equal(a.end.closed_at, at)
        c.close()


@test()
def priority_is_checked():
    with Daemon() as d:
        s = d.stub()
        for p in -101, 101:
            check("priority" in refused(Code.INVALID_ARGUMENT, s.Generate, text_request(max_tokens=1, priority=p)))
        equal(answer(s.Generate(text_request(max_tokens=1, priority=100))).begin.resolved.priority, 100)


# --- tokens ---


@test()
def tokenize_and_detokenize():
    with Daemon() as d:
        s = d.stub()
        text = "Hello wörld 你 <|im_end|>"
        plain, special = (s.Tokenize(pb.TokenizeRequest(text=text, allow_special=on)) for on in (False, True))
        equal(plain.count, len(plain.ids))
        check(len(special.ids) < len(plain.ids))
        equal(special.ids[-1], added_ids("<|im_end|>")[0])
        for r in plain, special:
            equal(s.Detokenize(pb.DetokenizeRequest(ids=r.ids)).text, text)
        equal(s.Detokenize(pb.DetokenizeRequest(ids=special.ids, skip_special=True)).text, text[:-10])
        long = "word and word " * 9000
        equal(s.Detokenize(pb.DetokenizeRequest(ids=s.Tokenize(pb.TokenizeRequest(text=long)).ids)).text, long)
        broken = s.Tokenize(pb.TokenizeRequest(text="你")).ids[:-1]
        equal(s.Detokenize(pb.DetokenizeRequest(ids=broken)).text, "\ufffd" if broken else "")
        refused(Code.INVALID_ARGUMENT, s.Detokenize, pb.DetokenizeRequest(ids=[1 << 30]))
        refused(Code.INVALID_ARGUMENT, s.Tokenize, pb.TokenizeRequest())


@test()
def tokenize_renders_what_chat_reads():
    with Daemon() as d:
        s = d.stub()
        messages = [pb.Message(role="user", content="a<|im_end|>b")]
        chat = pb.TokenizeChat(messages=messages, add_generation_prompt=True)
        ids = s.Tokenize(pb.TokenizeRequest(chat=chat)).ids
        a = answer(s.Chat(pb.ChatRequest(messages=messages, stopping=pb.Stopping(max_tokens=1))))
        equal(a.begin.prompt_tokens, len(ids))
        equal(list(ids).count(added_ids("<|im_end|>")[0]), 1, "a user cannot type a control token")
        chat.enable_thinking = False
        check(len(s.Tokenize(pb.TokenizeRequest(chat=chat)).ids) > len(ids), "thinking off adds an empty block")
        refused(Code.INVALID_ARGUMENT, s.Tokenize, pb.TokenizeRequest(chat=pb.TokenizeChat()))


# --- reflection ---


def reflect(d, *requests, version="v1"):
    call = d.channel().stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                                     reflection_pb.ServerReflectionRequest.SerializeToString,
                                     reflection_pb.ServerReflectionResponse.FromString)
    return list(call(iter(requests)))


def asking(**kw):
    return reflection_pb.ServerReflectionRequest(host="here", **kw)


@test()
def reflection_lists_services():
    with Daemon() as d:
        for version in "v1", "v1alpha":
            [r] = reflect(d, asking(list_services="*"), version=version)
            names = {s.name for s in r.list_services_response.service}
            check({"outrider.v1.Inference", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                   "grpc.reflection.v1alpha.ServerReflection"} <= names, names)
            equal((r.valid_host, r.original_request), ("here", asking(list_services="*")))


@test()
def reflection_is_enough_to_call():
    """As grpcurl does: from a service's name to its messages, and a call with them."""
    with Daemon("--model-name", "mirror") as d:
        [r] = reflect(d, asking(file_containing_symbol="outrider.v1.Inference"))
        pool = descriptor_pool.DescriptorPool()
        for data in r.file_descriptor_response.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
        method = pool.FindServiceByName("outrider.v1.Inference").FindMethodByName("GetModel")
        make = message_factory.MessageFactory(pool).GetPrototype
        call = d.channel().unary_unary("/outrider.v1.Inference/GetModel", lambda m: m.SerializeToString(), make(method.output_type).FromString)
        equal(call(make(method.input_type)()).name, "mirror")


@test()
def reflection_answers_each_question():
    with Daemon() as d:
        one = "outrider/v1/inference.proto"
        files = [asking(file_by_filename=one)] + [asking(file_containing_symbol=f"outrider.v1.{n}") for n in
                                                  ("Inference.Chat", "ChatRequest", "ChatRequest.messages", "Speculation.Mode",
                                                   "Speculation.OFF", "Sampling.temperature_")]
        for r in reflect(d, *files):
            [data] = r.file_descriptor_response.file_descriptor_proto
            equal(descriptor_pb2.FileDescriptorProto.FromString(data).name, one)
        missing = [asking(file_by_filename="no.proto"), asking(file_containing_symbol="outrider.v1.Nope"), asking(file_containing_symbol=""),
                   asking(file_containing_extension=reflection_pb.ExtensionRequest(containing_type="outrider.v1.Event", extension_number=7)),
                   asking(all_extension_numbers_of_type="outrider.v1.Inference")]
        for r in reflect(d, *missing):
            equal(r.error_response.error_code, Code.NOT_FOUND.value[0], str(r))
        r, nothing = reflect(d, asking(all_extension_numbers_of_type="outrider.v1.Event"), asking())
        equal((r.all_extension_numbers_response.base_type_name, list(r.all_extension_numbers_response.extension_number)),
              ("outrider.v1.Event", []))
        equal(nothing.error_response.error_code, Code.INVALID_ARGUMENT.value[0])


@test()
def reflection_does_not_hold_up_a_drain():
    with Daemon() as d:
        c = Controls(None)
        c.queue.get()
        c.queue.put(asking(list_services=""))
        call = d.channel().stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                         lambda m: m.SerializeToString(), reflection_pb.ServerReflectionResponse.FromString)(iter(c))
        next(call)
        begun = time.time()
        d.process.send_signal(signal.SIGTERM)
        refused(Code.UNAVAILABLE, lambda: call)
        check(time.time() - begun < 5)
        c.close()


# --- compression ---


def compressed(body, bits):
    z = zlib.compressobj(wbits=bits)
    body = z.compress(body) + z.flush()
    return b"\1" + struct.pack(">I", len(body)) + body


def sent_compressed(d, framed, encoding="gzip", **headers):
    """Frames of the answer to one Generate."""
    c = raw.Connection(d.connect())
    c.open(1, raw.request_headers(grpc_encoding=encoding, **headers), framed)
    frames = c.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM)
    c.close()
    return frames


@test()
def compressed_requests_are_read():
    with Daemon() as d:
        request = text_request("a long text, again and again. " * 40, 8, sampling=pb.Sampling(seed=2))
        want = answer(d.stub().Generate(request)).ids
        for how in grpc.Compression.Gzip, grpc.Compression.Deflate:
            equal(answer(d.stub().Generate(request, compression=how)).ids, want)
        for encoding, bits in ("gzip", 31), ("deflate", 15):
            frames = sent_compressed(d, compressed(request.SerializeToString(), bits), encoding)
            equal(Answer(pb.Event.FromString(m) for m in raw.messages(frames, 1)).adds_up().ids, want)
            check(not any(flag for flag, _ in raw.framed(frames, 1)), "a client that names no encoding gets none")


@test()
def who_compresses_is_answered_in_kind():
    with Daemon() as d:
        call = d.channel().unary_unary("/outrider.v1.Inference/Tokenize", pb.TokenizeRequest.SerializeToString, pb.TokenizeReply.FromString)
        request = pb.TokenizeRequest(text="one two three " * 200)
        equal(call(request, compression=grpc.Compression.Gzip), call(request))
        c = raw.Connection(d.connect())
        for stream, (encoding, bits) in zip((1, 3), (("gzip", 31), ("deflate", 15))):
            c.open(stream, raw.request_headers("/outrider.v1.Inference/Tokenize", grpc_encoding=encoding, grpc_accept_encoding="deflate,gzip"),
                   compressed(request.SerializeToString(), bits))
            frames = c.until(lambda kind, flags, at, p: kind == raw.HEADERS and flags & raw.END_STREAM)
            [(flag, body)] = raw.framed(frames, stream)
            equal(flag, 1)
            equal(pb.TokenizeReply.FromString(zlib.decompress(body, bits)), call(request))
        c.close()


@test()
def bad_compression_is_refused():
    with Daemon("--max-message-bytes", "64K") as d:
        request = text_request("x" * 2000, 1).SerializeToString()
        good = compressed(request, 31)
        bomb = compressed(b"\x0a\x80\x80\x80\x04" + bytes(1 << 23), 31)
        check(len(bomb) < 16000)

        def status(framed, **kw):
            return sent_compressed(d, framed, **kw)[-1][3]

        def has(block, code):
            check(str(code).encode() in block, (code, block))

        has(status(raw.message(request), encoding="br"), Code.UNIMPLEMENTED.value[0])
        has(status(good, encoding="identity"), Code.INTERNAL.value[0])
        has(status(b"\2" + good[1:]), Code.INTERNAL.value[0])
        has(status(good, encoding="deflate"), Code.INTERNAL.value[0])
        for bad in good[5:-12], good[5:] + b"x", b"\0" * 40, b"\x1f\x8b":
            has(status(b"\1" + struct.pack(">I", len(bad)) + bad), Code.INTERNAL.value[0])
        before = d.rss_kib()
        for _ in range(5):
            has(status(bomb), Code.RESOURCE_EXHAUSTED.value[0])
        check(d.rss_kib() - before < 8192, "a bomb was let to grow")
        answer(d.stub().Generate(text_request(max_tokens=1)))


# --- figures ---


@test()
def stats_add_up():
    with Daemon("--max-sessions", 2, "--max-queue", 0) as d:
        s = d.stub()
        before = s.GetStats(pb.GetStatsRequest())
        equal((before.requests.received, before.output_tokens), (0, 0))
        prompt = answer(s.Generate(text_request(max_tokens=7))).begin.prompt_tokens
        answer(s.Generate(text_request(max_tokens=7)))
        refused(Code.INVALID_ARGUMENT, s.Generate, text_request(max_tokens=0))
        call = s.Generate(text_request(max_tokens=LONG))
        next(call)
        call.cancel()
        got = eventually("the cancelled one is counted", 10,
                         lambda: (lambda g: g if g.requests.cancelled else None)(s.GetStats(pb.GetStatsRequest())))
        equal((got.requests.received, got.requests.length, got.requests.refused), (4, 2, 1), "requests")
        check(got.output_tokens >= 14 and got.prompt_tokens == 3 * prompt, str(got))
        check(got.rss_bytes > 1 << 20 and got.uptime_s > 0 and got.connections >= 1 and got.streams >= 1 and got.passes > 0 and got.rows >= got.passes, str(got))
        check(got.pages_free > 0)


@test()
def stats_are_watched():
    with Daemon() as d:
        s = d.stub()
        watch = s.WatchStats(pb.WatchStatsRequest(interval_ms=100))
        equal(next(watch).requests.received, 0)
        answer(s.Generate(text_request(max_tokens=3)))
        begun = time.time()
        check(next(m for m in watch if m.requests.length == 1))
        check(time.time() - begun < 5)
        watch.cancel()
        for ms in 99, -1, 3600001:
            refused(Code.INVALID_ARGUMENT, s.WatchStats, pb.WatchStatsRequest(interval_ms=ms))
        watch = s.WatchStats(pb.WatchStatsRequest())
        next(watch)
        d.process.send_signal(signal.SIGTERM)
        refused(Code.UNAVAILABLE, lambda: watch)


# --- the connection ---


@test()
def a_full_house_says_when():
    with Daemon("--max-sessions", 1, "--max-queue", 0, slow=True) as d:
        s = d.stub()
        running = s.Generate(text_request(max_tokens=LONG))
        next(running)
        call = s.Generate(text_request(max_tokens=1))
        try:
            list(call)
            raise AssertionError("not refused")
        except grpc.RpcError as e:
            equal(e.code(), Code.RESOURCE_EXHAUSTED)
            hint = int(dict(call.trailing_metadata())["grpc-retry-pushback-ms"])
            check(100 <= hint <= 30000, hint)
            check(f"{hint / 1000:.1f} s" in e.details(), e.details())
        running.cancel()


@test()
def keepalives_of_clients_are_welcome():
    """A ping every second, with no call running; 21 at once are none."""
    with Daemon() as d:
        c = raw.Connection(d.connect())
        for _ in range(4):
            c.send(raw.frame(raw.PING, payload=b"12345678"))
            c.until(lambda kind, flags, stream, p: kind == raw.PING and flags & raw.ACK, 5)
            time.sleep(1)
        c.close()
        c = raw.Connection(d.connect())
        c.send(raw.frame(raw.PING, payload=b"12345678") * 21)
        frames = c.until(lambda kind, flags, stream, p: kind == raw.GOAWAY, 10)
        equal((raw.goaway_code(frames), frames[-1][3][8:]), (raw.ENHANCE_YOUR_CALM, b"too_many_pings"))
        c.close()


@test()
def silent_clients_are_asked():
    with Daemon("--keepalive-time", 0.3, "--keepalive-timeout", 0.5) as d:
        answers, deaf = raw.Connection(d.connect()), raw.Connection(d.connect())
        for _ in range(4):
            frames = answers.until(lambda kind, flags, stream, p: kind == raw.PING and not flags & raw.ACK, 5)
            answers.send(raw.frame(raw.PING, raw.ACK, payload=frames[-1][3]))
        begun = time.time()
        frames = deaf.until(lambda *f: False, 10)
        equal([f[0] for f in frames].count(raw.PING), 1)
        check(time.time() - begun < 5, "who does not answer is closed")
        answers.open(1, body=raw.message(text_request(max_tokens=2)))
        frames = answers.until(lambda kind, flags, stream, p: kind == raw.HEADERS and flags & raw.END_STREAM)
        check(frames, "who does is not")
        answers.close()
