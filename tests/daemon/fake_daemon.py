#!/usr/bin/python3
"""A daemon for the tests of `outrider demo`: takes outriderd's flags that the demo uses, computes the answers instead of asking a model,
and has a fault on demand (--fault NAME), so that every check of the demo is seen to fail."""
import argparse
import os
import re
import signal
import sys
import time

import grpc

from fake_server import CLOSE, FINGERPRINT, OPEN, FakeServer
from stubs import pb

CLOSING = "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
FAULTS = ("wrong-sum wrong-equation no-cut over-budget no-closing empty-after-cut other-thoughts thinks-when-off drafting-changes-ids drafting-changes-text "
          "resume-changes-text resume-repeats no-drafts drafts-when-off never-breaks exit-1 ignores-term dies-at-start dies-later refuses slow").split()


def answer_to(prompt):
    n = [int(x) for x in re.findall(r"\d+", prompt)]
    if "sum of" in prompt:
        return f"{n[0]} + {n[1]} = {n[0] + n[1]}."
    if "Solve" in prompt:
        return f"y = {(n[2] - n[1]) // n[0]}."
    if "Reverse" in prompt:
        return prompt.split()[-1].rstrip(".")[::-1] + "."
    return f"{n[0]} * {n[1]} = {n[0] * n[1]}."


class FakeTiny(FakeServer):
    def __init__(self, address, fault):
        self.fault = fault
        super().__init__(address)

    def tokens(self, r, prompt):
        """(id, reasoning, content) of a whole answer, and whether its thinking was cut."""
        thoughts, out, cut = "\nI think about " + prompt + " for a long time.\n", [], False
        on = r.thinking.enabled or self.fault == "thinks-when-off"
        answer = answer_to(prompt)
        if self.fault == "wrong-sum" and "sum" in prompt or self.fault == "wrong-equation" and "Solve" in prompt:
            answer = answer[:-1] + "0."
        if r.thinking.HasField("budget") and self.fault != "no-cut":
            cut = True
            thoughts = thoughts[:r.thinking.budget] if self.fault != "over-budget" else thoughts[:60] + "x" * 200
            thoughts = ("Q" + thoughts[1:] if self.fault == "other-thoughts" else thoughts) + ("" if self.fault == "no-closing" else CLOSING)
            answer = "" if self.fault == "empty-after-cut" else answer
        if on:
            out = [(OPEN, "", "")] + [(ord(c), c, "") for c in thoughts] + [(CLOSE, "", "")]
        return out + [(ord(c), "", c) for c in "\n\n" * on + answer], cut, len(thoughts) * on

    def generate(self, request, context):
        yield pb.Event(begin=pb.Begin(prompt_tokens=len(request.text), fingerprint=FINGERPRINT))
        yield pb.Event(end=pb.End(finish=pb.End.LENGTH))

    def chat(self, r, context):
        prompt, off = r.messages[-1].content, r.speculation.mode == pb.Speculation.OFF
        tokens, cut, n = self.tokens(r, prompt)
        if self.fault == "refuses" and "Reverse" in prompt:
            context.abort(grpc.StatusCode.INTERNAL, "broken on purpose")
        if self.fault == "drafting-changes-ids" and off:
            tokens[-1] = (7,) + tokens[-1][1:]
        if self.fault == "drafting-changes-text" and off:
            tokens[-1] = tokens[-1][:2] + ("!",)
        if self.fault == "resume-changes-text" and r.HasField("resume"):
            tokens[-1] = tokens[-1][:2] + ("!",)
        if self.fault == "dies-later" and "Solve" in prompt:
            sys.stdout.write("dying on purpose\n")
            sys.stdout.flush()
            os._exit(1)
        given = 0 if self.fault == "resume-repeats" else len(r.resume.tokens)
        yield pb.Event(begin=pb.Begin(seed=r.sampling.seed, fingerprint=FINGERPRINT))
        step = 1000 if self.fault == "never-breaks" else 3
        for at in range(given, len(tokens), step):
            part = tokens[at:at + step]
            time.sleep(0.05 if self.fault == "slow" else 0)
            yield pb.Event(delta=pb.Delta(token_ids=[t[0] for t in part], reasoning="".join(t[1] for t in part), content="".join(t[2] for t in part)))
        drafted = 0 if off and self.fault != "drafts-when-off" else 10
        yield pb.Event(end=pb.End(finish=pb.End.STOP, thinking_cut=cut, usage=pb.Usage(completion_tokens=len(tokens), reasoning_tokens=n),
                                  timings=pb.Timings(decode_ms=1), speculation=pb.SpeculationFigures(passes=10, drafted=drafted, accepted=0 if self.fault == "no-drafts" else drafted // 2)))


def main():
    a = argparse.ArgumentParser()
    for flag in "--target", "--draft", "--listen", "--fault":
        a.add_argument(flag)
    a = a.parse_args()
    if a.fault == "dies-at-start":
        sys.exit("no such model, on purpose")
    done = []
    signal.signal(signal.SIGTERM, lambda *_: a.fault == "ignores-term" or done.append(1))
    server = FakeTiny(a.listen, a.fault)
    print("listening on", server.address, flush=True)
    while not done:
        time.sleep(0.02)
    server.stop()
    sys.exit(a.fault == "exit-1")


if __name__ == "__main__":
    main()
