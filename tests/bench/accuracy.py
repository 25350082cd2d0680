#!/usr/bin/python3
"""Accuracy of the tiny pair through a running daemon, by kind of problem, with thinking on, off and within budgets; greedy.

    accuracy.py [--server 127.0.0.1:8311] [-n 120] [--modes on,off,0,16,32,48,64,128] [--json FILE] [--write README.md]

The problems are those of corpus seed 777 (assets/tiny/train/corpus.py), the same in every mode.  Prints a Markdown table; --write puts
it between the README's two accuracy markers.  Beside the daemon's figures stand those that PyTorch gives for the same weights and
prompts (assets/tiny/train/pytorch.json, recorded from evaluate.py).  Exit status 1 if an answer failed or a budget was exceeded (then
the table is not worth reading), or if a mode is more than 2 points off PyTorch's.
"""
import argparse
import collections
import concurrent.futures
import json
import pathlib
import random
import sys

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "assets/tiny/train"), str(ROOT / "tests/daemon")]
import corpus  # noqa: E402
from stubs import pb, rpc  # noqa: E402

SEED = 777
TOKENS_MAX = 600  # an answer's; the corpus' longest has under 400
DEADLINE = 300    # seconds, for one answer
POINTS = 2        # of a hundred, that the daemon may be off PyTorch
REFERENCE = ROOT / "assets/tiny/train/pytorch.json"
MARKERS = "<!-- accuracy: begin (tests/bench/accuracy.py --write) -->", "<!-- accuracy: end -->"


def problems(n):
    rng = random.Random(SEED)
    return [corpus.sample(rng) for _ in range(n)]


def request_of(problem, mode):
    request = pb.ChatRequest(messages=[pb.Message(role="user", content=problem.question)], sampling=pb.Sampling(temperature=0),
                             stopping=pb.Stopping(max_tokens=TOKENS_MAX))
    request.thinking.enabled = mode != "off"
    if mode not in ("on", "off"):
        request.thinking.budget = int(mode)
    return request


def ask(stub, problem, mode):
    """-> (right, the End event)."""
    said, end = "", None
    for event in stub.Chat(request_of(problem, mode), timeout=DEADLINE):
        said += event.delta.content
        if event.HasField("end"):
            end = event.end
    return corpus.is_right(said, problem), end


def measure(stub, asked, mode, at_once):
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(lambda p: ask(stub, p, mode), asked))
    by_kind = {kind: [0, 0] for kind in corpus.TASKS}
    for problem, (right, _) in zip(asked, answers):
        by_kind[problem.kind][0] += right
        by_kind[problem.kind][1] += 1
    ends = [end for _, end in answers]
    thought = [end.usage.reasoning_tokens for end in ends]
    return {
        "mode": mode, "asked": len(asked), "right": sum(right for right, _ in answers), "by_kind": by_kind,
        "reasoning_tokens_mean": sum(thought) / len(thought), "reasoning_tokens_max": max(thought), "cut": sum(end.thinking_cut for end in ends),
        "finish": dict(collections.Counter(pb.End.Finish.Name(end.finish) for end in ends)),
        "passes": sum(end.speculation.passes for end in ends), "accepted": sum(end.speculation.accepted for end in ends),
    }


def over_budget(m):
    return m["mode"] not in ("on", "off") and m["reasoning_tokens_max"] > int(m["mode"])


def reference(asked):
    """-> {mode: right answers of a hundred}, as PyTorch gives them; empty for another set of problems."""
    recorded = json.loads(REFERENCE.read_text())["modes"]
    return {mode: 100 * m["right"] / m["asked"] for mode, m in recorded.items() if m["asked"] == asked}


def points_off(measured):
    """-> {mode: points the daemon is off PyTorch}"""
    want = reference(measured[0]["asked"])
    return {m["mode"]: abs(100 * m["right"] / m["asked"] - want[m["mode"]]) for m in measured if m["mode"] in want}


def table(model, measured):
    want = reference(measured[0]["asked"])
    kinds = [kind for kind in corpus.TASKS if measured[0]["by_kind"][kind][1]]
    name = lambda mode: mode if mode in ("on", "off") else f"budget {mode}"
    row = lambda *cells: "| " + " | ".join(map(str, cells)) + " |"
    lines = [f"Target `{model.fingerprint}`, {measured[0]['asked']} problems of corpus seed {SEED}, greedy: answers exactly right.", "",
             row("problem", *(f"{name(m['mode'])}" for m in measured)), row("---", *("---:" for _ in measured)),
             row("**all**", *(f"**{100 * m['right'] / m['asked']:.1f}%**" for m in measured)),
             row("all, in PyTorch", *(f"{want[m['mode']]:.1f}%" if m["mode"] in want else "-" for m in measured))]
    for kind in kinds:
        lines.append(row(kind, *("{}/{}".format(*m["by_kind"][kind]) for m in measured)))
    lines.append(row("thinking tokens, mean", *(f"{m['reasoning_tokens_mean']:.1f}" for m in measured)))
    lines.append(row("thinking cut", *(m["cut"] for m in measured)))
    lines.append(row("tokens a target pass", *(f"{1 + m['accepted'] / m['passes']:.2f}" if m["passes"] else "-" for m in measured)))
    return "\n".join(lines)


def write_between_markers(path, text):
    before, begin, rest = path.read_text().partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        sys.exit(f"accuracy.py: {path} lacks the markers {MARKERS[0]} and {MARKERS[1]}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--server", default="127.0.0.1:8311")
    arguments.add_argument("-n", type=int, default=120, help="problems")
    arguments.add_argument("--modes", default="on,off,0,16,32,48,64,128")
    arguments.add_argument("--at-once", type=int, default=8, help="questions in flight")
    arguments.add_argument("--json", type=pathlib.Path, help="all figures")
    arguments.add_argument("--write", type=pathlib.Path, help="a Markdown file with the two markers")
    a = arguments.parse_args()
    asked = problems(a.n)
    try:
        with grpc.insecure_channel(a.server) as channel:
            stub = rpc.InferenceStub(channel)
            model = stub.GetModel(pb.GetModelRequest(), timeout=DEADLINE)
            measured = [measure(stub, asked, mode, a.at_once) for mode in a.modes.split(",")]
    except grpc.RpcError as e:
        sys.exit(f"accuracy.py: {a.server}: {e.code().name}: {e.details()}")
    text = table(model, measured)
    print(text)
    if a.json:
        a.json.write_text(json.dumps({"model": model.name, "fingerprint": model.fingerprint, "seed": SEED, "modes": measured}, indent=1) + "\n")
    bad = [m["mode"] for m in measured if over_budget(m) or set(m["finish"]) - {"STOP", "LENGTH"}]
    if bad:
        sys.exit(f"accuracy.py: answers were broken off or exceeded the budget in: {', '.join(bad)}")
    far = [f"{mode} ({points:.1f})" for mode, points in points_off(measured).items() if points > POINTS]
    if far:
        sys.exit(f"accuracy.py: more than {POINTS} points off PyTorch: {', '.join(far)}")
    if a.write:
        write_between_markers(a.write, text)


if __name__ == "__main__":
    main()
