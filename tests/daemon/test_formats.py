#!/usr/bin/python3
"""Models that are no Hugging Face directory, and the templates of 2507, through the real daemon.  Usage and environment: see
wire_harness.py."""
import json
import pathlib
import shutil
import tempfile

from wire_harness import SHARED, TARGET, Daemon, Skip, answer, check, equal, main, pb, test

GGUF = SHARED / "golden/gguf/bf16/model.gguf"  # the tiny target, as llama.cpp writes it
QUESTIONS = ["What is 44 times 4?", "What is 17 plus 25?", "Write the word winter backwards."]


def chat(stub, text, budget=None, **sampling):
    r = pb.ChatRequest(messages=[pb.Message(role="user", content=text)], sampling=pb.Sampling(**sampling), stopping=pb.Stopping(max_tokens=160))
    if budget is not None:
        r.thinking.budget = budget
    return answer(stub.Chat(r))


def answers(*flags):
    with Daemon(*flags) as d:
        stub = d.stub()
        return [chat(stub, q, **s) for q in QUESTIONS for s in ({"temperature": 0}, {"seed": 7, "temperature": 1, "top_k": 0, "top_p": 1})]


@test()
def gguf_says_what_safetensors_say():
    """The same weights in two formats: the same text, token for token; only the fingerprint tells them apart."""
    if not GGUF.exists():
        raise Skip(f"{GGUF} is not there (shared)")
    one, other = answers("--target-quant", "bf16"), answers("--target", GGUF, "--target-quant", "bf16")
    for a, b in zip(one, other):
        equal(b.ids, a.ids, "ids")
        equal((b.reasoning, b.content), (a.reasoning, a.content), "text")
        check(a.begin.fingerprint != b.begin.fingerprint, "one fingerprint for two files")
    check(len({tuple(a.ids) for a in one}) > 3, "the answers are all alike")


@test()
def gguf_target_with_safetensors_draft():
    if not GGUF.exists():
        raise Skip(f"{GGUF} is not there (shared)")
    with Daemon("--target", GGUF, "--draft", TARGET.parent / "draft") as d:
        a = chat(d.stub(), QUESTIONS[0], temperature=0)
    check("176" in a.content, a.content)
    check(a.end.speculation.accepted > 0, "no guess was accepted")


@test()
def a_draft_that_guesses_in_one_pass():
    """The tiny draft, whose config.json says that it was trained so, which it was not: worse guesses, the same text; and with its guesses
    from part of the vocabulary, too."""
    want = [(a.ids, a.content) for a in answers("--draft", TARGET.parent / "draft")]
    with tempfile.TemporaryDirectory() as where:
        shutil.copytree(TARGET.parent / "draft", where, dirs_exist_ok=True)
        config = pathlib.Path(where) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"pard_token": 904}))
        for flags in (), ("--draft-head", 256), ("--speculation", 32):
            with Daemon("--draft", where, *flags) as d:
                stub = d.stub()
                got = [chat(stub, q, **s) for q in QUESTIONS for s in ({"temperature": 0}, {"seed": 7, "temperature": 1, "top_k": 0, "top_p": 1})]
                check("the draft guesses in one pass (pard_token 904)" in d.log(), d.log())
            equal([(a.ids, a.content) for a in got], want, "answers")
        check(sum(a.end.speculation.accepted for a in got) > 0, "no guess was accepted")


@test()
def thinking_2507_is_closed_at_once():
    """Its prompt ends inside <think>: a budget of 0 closes it before the first drawn token."""
    with Daemon("--template", "thinking-2507") as d:
        stub = d.stub()
        off, on, some = chat(stub, QUESTIONS[0], budget=0, seed=1), chat(stub, QUESTIONS[0], seed=1), chat(stub, QUESTIONS[0], budget=5, seed=1)
        refusal = pb.ChatRequest(messages=[pb.Message(role="user", content="x")], stopping=pb.Stopping(max_tokens=60))
        refusal.thinking.enabled = False
        disabled = answer(stub.Chat(refusal))
    for a in off, disabled:
        equal(a.end.usage.reasoning_tokens, 0, "reasoning tokens")
        check(a.end.thinking_cut and a.reasoning.startswith("Considering the limited time"), a.reasoning)
        check(a.content, "no answer")
    equal(some.end.usage.reasoning_tokens, 5, "reasoning tokens")
    check("Considering the limited time" not in on.reasoning and on.end.usage.reasoning_tokens > 5, on.reasoning)


@test()
def synthetic_models_are_served():
    """No file at all: a shape of a real model, its draft likewise, thinking tags at Qwen's ids."""
    with Daemon("--target", "synth:0.6b:layers=1", "--target-quant", "q8", "--draft", "synth:0.6b:layers=1:seed=1", "--ctx", 512) as d:
        stub = d.stub()
        m = stub.GetModel(pb.GetModelRequest())
        equal(m.name, "synth:0.6b:layers=1", "name")
        r = pb.ChatRequest(messages=[pb.Message(role="user", content="hello there")], sampling=pb.Sampling(seed=3), stopping=pb.Stopping(max_tokens=24))
        one, two = answer(stub.Chat(r)), answer(stub.Chat(r))
        equal(one.ids, two.ids, "ids")
        check(one.begin.prompt_tokens < 40, "words are not merged")
        r.thinking.enabled = False
        without = answer(stub.Chat(r))
        check(without.begin.prompt_tokens > one.begin.prompt_tokens, "no empty block")


if __name__ == "__main__":
    main(fake=False)
