#!/usr/bin/python3
"""outrider tokenize, detokenize and render, offline, on the shipped tokenizer.  Usage: see client_harness.py."""
import json
import pathlib
import subprocess
import sys

from client_harness import OUTRIDER, eq, has, outrider, run_tests

TARGET = str(pathlib.Path(__file__).resolve().parents[2] / "assets/tiny/target")


def lines(command, objects, *flags, status=0):
    text = "".join((o if isinstance(o, str) else json.dumps(o)) + "\n" for o in objects)
    rc, out, err = outrider(command, "--model", TARGET, "--jsonl", *flags, stdin=text.encode("utf-8", "surrogateescape"))
    eq(rc, status, err)
    return [json.loads(line) for line in out.decode().split("\n")[:-1]]


def ids(text, *flags):
    return lines("tokenize", [{"text": text}], *flags)[0]["ids"]


def test_added_tokens_only_when_allowed(_):
    allowed = ids("a<|im_end|>b", "--allow-special")
    eq(len(allowed), 3)
    eq(len(ids("a<|im_end|>b")) > 3, True)
    eq(lines("detokenize", [{"ids": allowed}]), [{"text": "a<|im_end|>b"}])
    eq(lines("detokenize", [{"ids": allowed}], "--skip-special-tokens"), [{"text": "ab"}])


def test_text_comes_back(_):
    for text in "", "plain", "\u00e9 \u4f60\u597d \U0001f600\n\n\t", "a\0b":
        eq(lines("detokenize", [{"ids": ids(text)}]), [{"text": text}])
    eq(lines("detokenize", [{"ids": ids("\U0001f600")[:-1]}]), [{"text": "\ufffd"}])


def test_bad_lines_are_answered_and_passed_over(_):
    got = lines("tokenize", [{"text": "a"}, {"txt": 1}, "", '{"text": "\udcff"}', "[1]", {"text": "a"}], status=1)
    eq([g.get("line") for g in got], [None, 2, 3, 4, 5, None])
    eq(got[0], got[5])
    has(got[1]["error"], "text is nothing; expected a string")
    has(got[3]["error"], "not UTF-8")
    got = lines("detokenize", [{"ids": [905]}, {"ids": [-1]}, {"ids": [1.5]}, {"ids": 1}, {"ids": [0]}], status=1)
    eq([g.get("line") for g in got], [1, 2, 3, 4, None])
    has(got[0]["error"], "905 is not the id of a token; expected 0 to 904")
    got = lines("render", [{"messages": []}, {"messages": [{"role": "user", "content": "q"}]}], status=1)
    eq(got[0]["line"], 1)
    eq(got[1], {"text": "<|im_start|>user\nq<|im_end|>\n"})


def test_a_user_cannot_render_a_control_token(_):
    chat = {"messages": [{"role": "user", "content": "a<|im_end|>b"}], "add_generation_prompt": True}
    got = lines("render", [chat], "--ids")[0]
    eq(got["text"], "<|im_start|>user\na<|im_end|>b<|im_end|>\n<|im_start|>assistant\n")
    end = ids("<|im_end|>", "--allow-special")[0]
    eq(got["ids"].count(end), 1)
    eq(lines("detokenize", [{"ids": got["ids"]}]), [{"text": got["text"]}])


def test_the_form_for_people(_):
    rc, out, _ = outrider("tokenize", "--model", TARGET, "Two", "words")
    eq((rc, [int(x) for x in out.split()]), (0, ids("Two words")))
    eq(outrider("tokenize", "--model", TARGET, stdin=b"Two words")[1], out)
    eq(outrider("detokenize", "--model", TARGET, stdin=out), (0, b"Two words\n", b""))
    eq(outrider("render", "--model", TARGET, "q"), (0, b"<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n\n", b""))
    rc, out, err = outrider("detokenize", "--model", TARGET, "x")
    eq((rc, out), (1, b""))
    has(err, b"no token id")


def test_bad_usage_is_explained(_):
    for args in ["tokenize"], ["tokenize", "--model", TARGET, "--jsonl", "text"], ["render", "--model", TARGET, "--template", "x"]:
        rc, out, err = outrider(*args)
        eq((rc, out), (2, b""), args)
        has(err, b"usage: outrider")
    rc, out, err = outrider("tokenize", "--model", "/nonexistent", "x")
    eq((rc, out), (1, b""))
    has(err, b"/nonexistent: No such file or directory; expected a directory with tokenizer.json")
    for command in "tokenize", "detokenize", "render":
        rc, out, _ = outrider(command, "--help")
        eq(rc, 0)
        has(out, b"--jsonl")


def test_lost_output_is_told(_):
    with open("/dev/full", "wb") as full:
        for args in ["inspect", TARGET], ["inspect", TARGET, "--json"], ["tokenize", "--model", TARGET, "x"]:
            p = subprocess.run([OUTRIDER, *args], stdout=full, stderr=subprocess.PIPE)
            eq(p.returncode, 1, args)
            has(p.stderr, b"written" if args[0] == "tokenize" else b"cannot write")


if __name__ == "__main__":
    sys.exit(run_tests(globals()))
