#!/usr/bin/python3
"""The promise, over the wire: one answer is the same words whatever is guessed, whoever else asks, however many threads compute, and
on whichever daemon it goes on.  The reference is drafting off, one client, one thread.  Usage and environment: see wire_harness.py."""
import concurrent.futures
import json
import os
import random
import sys

import grpc

from wire_harness import ROOT, TARGET, Answer, Daemon, Skip, check, equal, eventually, main, pb, refused, test

sys.path.insert(0, str(ROOT / "assets/tiny/train"))
import corpus  # noqa: E402

SCALE = int(os.environ.get("GATE_SCALE", 1))
CLIENTS, RESUME_STEP, TOKENS_MAX = 16, 7, 160
N = max(4, CLIENTS // SCALE)  # chats
SAMPLINGS = [{"temperature": 0}, {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}, {"temperature": 0.8, "top_k": 20, "top_p": 0.95, "min_p": 0},
             {"temperature": 1.2, "top_k": 0, "top_p": 0.9, "min_p": 0.02}]
BUDGETS = [-1, 20, 0, 5, -1]
OFF, AUTO = pb.Speculation(mode=pb.Speculation.OFF), pb.Speculation(mode=pb.Speculation.AUTO)


def nodes(n):
    return pb.Speculation(mode=pb.Speculation.NODES, nodes=n, depth=min(n, 12))


def chats(n=N):
    rng = random.Random(4242)
    for i in range(n):
        r = pb.ChatRequest(messages=[pb.Message(role="user", content=corpus.sample(rng).question)], stopping=pb.Stopping(max_tokens=TOKENS_MAX))
        r.sampling.CopyFrom(pb.Sampling(seed=1000 + i, **SAMPLINGS[i % len(SAMPLINGS)]))
        r.thinking.enabled = BUDGETS[i % len(BUDGETS)] != 0
        r.thinking.budget = BUDGETS[i % len(BUDGETS)]
        yield r


def daemon(threads, *flags):
    draft = TARGET.parent / "draft"
    if not (draft / "model.safetensors").exists():
        raise Skip("the tiny draft has no weights")
    d = Daemon("--draft", draft, "--threads", threads, *flags)
    return d


def needs_models(d):
    """The fake engine has neither a target nor a draft."""
    model = d.stub().GetModel(pb.GetModelRequest())
    if model.device == "fake":
        raise Skip("the daemon runs a fake engine")
    return model


def ask(stub, chat, how, **changed):
    r = pb.ChatRequest(speculation=how, **changed)
    r.MergeFrom(chat)
    return Answer(stub.Chat(r, timeout=300)).whole()


def what_counts(a):
    return {"ids": a.ids, "content": a.content, "reasoning": a.reasoning, "finish": a.end.finish, "cut": a.end.thinking_cut,
            "completion": a.end.usage.completion_tokens, "reasoning_tokens": a.end.usage.reasoning_tokens}


def same(arm, i, got, want):
    got, want = what_counts(got), what_counts(want)
    for key in want:
        equal(got[key], want[key], f"{arm}, chat {i}: {key}")


def run_arm(arm, stub, how, want, at_once):
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        got = list(pool.map(lambda chat: ask(stub, chat, how), chats()))
    for i, (g, w) in enumerate(zip(got, want)):
        same(arm, i, g, w)
    return sum(g.end.speculation.accepted for g in got)


_want = []


def want():
    """Drafting off, one client, one thread; asked once."""
    if not _want:
        with daemon(1) as d:
            needs_models(d)
            stub = d.stub()
            _want.extend(ask(stub, chat, OFF) for chat in chats())
    return _want


def arms(threads):
    reference = want()
    with daemon(threads) as d:
        stub = d.stub()
        for name, how in ("off", OFF), ("auto", AUTO), ("1 node", nodes(1)), ("2 nodes", nodes(2)), ("64 nodes", nodes(64)):
            for at_once in 1, CLIENTS:
                arm = f"{threads} threads, {name}, {at_once} at once"
                accepted = run_arm(arm, stub, how, reference, at_once)
                check((accepted > 0) == (name not in ("off", "1 node")), f"{arm}: {accepted} guesses were kept")


@test()
def equal_with_one_thread():
    arms(1)


@test()
def equal_with_two_threads():
    arms(2)


PAGES, CROWD = 64, max(20, 64 // SCALE)  # a chat takes some four pages of 64 tokens


@test()
def a_crowd_with_pages_for_sixteen():
    """All finish, each with the words it gets alone, and no page stays behind."""
    long = {"stopping": pb.Stopping(ignore_eos=True)}
    config = json.loads((TARGET / "config.json").read_text())
    page = 64 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * 2 * 2  # K and V in BF16
    with daemon(1) as alone:
        needs_models(alone)
        reference = [ask(alone.stub(), chat, OFF, **long) for chat in chats(CROWD)]
    flags = "--draft-depth", 4, "--kv-bytes", PAGES * page, "--ctx", 1024, "--max-sessions", CROWD
    with daemon(2, *flags) as d, concurrent.futures.ThreadPoolExecutor(CROWD) as pool:
        stub = d.stub()
        got = list(pool.map(lambda chat: ask(stub, chat, AUTO, **long), chats(CROWD)))
        for i, (g, w) in enumerate(zip(got, reference)):
            same("crowd", i, g, w)
        preempted = sum(g.end.speculation.preemptions for g in got)
        check(preempted >= 1, f"only {preempted} preemptions: the pages were not scarce")
        stats = eventually("the sessions are gone", 20, lambda: (lambda s: s if s.sessions_active == 0 else None)(stub.GetStats(pb.GetStatsRequest())))
        equal(stats.pages_used, 0, "pages used with nobody there")
        equal(stats.pages_free + stats.pages_cached, PAGES, "pages")


@test()
def the_chats_are_not_vacuous():
    ends = [a.end for a in want()]
    check(any(e.thinking_cut for e in ends) and not all(e.thinking_cut for e in ends), "budgets cut all or none")
    check(any(a.reasoning for a in want()) and any(not a.reasoning for a in want()), "all chats think, or none does")
    check(len({tuple(a.ids) for a in want()}) == N, "two chats have the same answer")
    check(sum(len(a.ids) for a in want()) > 20 * N, "the answers are short")


def told_after(a):
    """{tokens given so far: (content, reasoning) so far}, where deltas end."""
    n, content, reasoning, at = 0, "", "", {0: ("", "")}
    for d in a.deltas:
        n, content, reasoning = n + len(d.token_ids), content + d.content, reasoning + d.reasoning
        at[n] = content, reasoning
    return at


@test()
def resumed_on_another_daemon():
    reference, jobs = want(), []
    for i, (chat, w) in enumerate(zip(chats(), reference)):
        jobs += [(i, chat, w, n) for n in range(RESUME_STEP, len(w.ids), RESUME_STEP)]
    with daemon(2) as other, concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        stub = other.stub()
        resume = lambda w, n: pb.Resume(tokens=w.ids[:n], fingerprint=w.begin.fingerprint)
        got = list(pool.map(lambda j: ask(stub, j[1], AUTO, resume=resume(j[2], j[3])), jobs))
    texts = 0
    for (i, _, w, n), g in zip(jobs, got):
        at = told_after(w).get(n)
        equal(g.ids, w.ids[n:], f"chat {i} resumed after {n} tokens: ids")
        equal((g.end.finish, g.end.usage.completion_tokens, g.end.usage.reasoning_tokens),
              (w.end.finish, w.end.usage.completion_tokens, w.end.usage.reasoning_tokens), f"chat {i} resumed after {n} tokens: end")
        if at:
            equal((at[0] + g.content, at[1] + g.reasoning), (w.content, w.reasoning), f"chat {i} resumed after {n} tokens: text")
            texts += 1
    print(f"  {len(jobs)} resumptions, {texts} of them where a delta ends")
    check(len(jobs) > 3 * N and 4 * texts > len(jobs), f"{len(jobs)} resumptions, {texts} texts compared")


@test()
def another_target_is_refused():
    chat, w = next(chats()), want()[0]
    with daemon(1, "--target-quant", "q8") as other:
        stub = other.stub()
        mine = needs_models(other).fingerprint
        check(mine != w.begin.fingerprint, "q8 has the fingerprint of the stored weights")
        for changed in {"resume": pb.Resume(tokens=w.ids[:5], fingerprint=w.begin.fingerprint)}, {"fingerprint": w.begin.fingerprint}:
            r = pb.ChatRequest(**changed)
            r.MergeFrom(chat)
            why = refused(grpc.StatusCode.FAILED_PRECONDITION, stub.Chat, r)
            check(w.begin.fingerprint in why or mine in why, f"the sentence does not name a fingerprint: {why}")
        ask(stub, chat, AUTO, resume=pb.Resume(tokens=w.ids[:5], fingerprint=mine))  # its own is taken


main(fake=False)
