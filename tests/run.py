#!/usr/bin/env python3
"""Runs the tests and counts them.  `tests/run.py [STAGE ...]`; no stage: all of them, in order.

Stages are lists of steps; a step is a build (one test: it builds without a warning), a cmocka program, or a script that prints
"ok NAME", "FAIL NAME why" or "skip NAME why" a line.  Steps of one stage run two at a time unless marked alone.  A program that
dies, runs no test or exceeds its time counts as failed.  A skip that tests/skips.txt does not list counts as failed.

Last line: N passed, N failed, N skipped.
"""
import concurrent.futures
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3"
FUZZ_SECONDS = 60
os.chdir(ROOT)


class Step:
    def __init__(self, name, command, seconds=600, alone=False, env=None, kind="tests"):
        self.name, self.command, self.seconds, self.alone, self.kind = name, command, seconds, alone, kind
        self.env = dict(os.environ, **(env or {}))


class Result:
    def __init__(self):
        self.passed, self.failed, self.skipped = [], [], []


def programs(build, group):
    return [f"build/{build}/tests/{group}/{p.stem}" for p in sorted(pathlib.Path("tests", group).glob("*.c*")) if p.suffix in (".c", ".cu")]


def build(name, *args):
    return Step(f"build {name}", ["make", "-j2", *args], 1800, alone=True, kind="one")


# Long programs run as several, side by side.
PARTS = {"equality": [["*", "tiny"], ["*", "random"], ["*", "experts"]], "extras": [["*", "tiny"], ["*", "random"]]}


# Under the thread sanitizer only these parts: the others run the same code on one thread.
THREAD_PARTS = {"equality": [["test_threads", "tiny"], ["test_c*", "random"]],
                "forward": [["roads_f32"], ["roads_q8"], ["roads_experts"], ["*oracle"]]}

# Begun first, so that none is left over for one core alone.
LONG = ["equality", "oracle", "forward", "budget", "extras", "tiny", "engine", "engine_pages", "pinned",
        "test_wire", "test_first_token", "test_wire_fake", "test_equal", "test_formats", "test_demo"]


def long_first(paths):
    return sorted(paths, key=lambda p: (pathlib.Path(p).stem in ALONE, LONG.index(pathlib.Path(p).stem) if pathlib.Path(p).stem in LONG
                                        else len(LONG)))


def units(build_name, groups, env=None, seconds=900, parts=None):
    steps = []
    found = [p for g in groups for p in programs(build_name, g)]
    for p in long_first(found):
        for part in (parts or PARTS).get(pathlib.Path(p).stem, [[]]):
            steps.append(Step(" ".join([p, *part]), [p, *part], seconds, env=env))
    return steps


def scripts(build_name, env=None, only=None):
    base = {"OUTRIDERD": f"build/{build_name}/outriderd", "OUTRIDER": f"build/{build_name}/outrider", "BUILD": f"build/{build_name}"}
    found = [p for p in sorted(pathlib.Path("tests/daemon").glob("test_*.py")) if not only or p.stem in only]
    return [Step(f"{p} ({build_name})", [PYTHON, str(p)], 900, alone=p.stem in ALONE, env=dict(base, **(env or {})))
            for p in long_first(found)]


def fuzzers():
    return [Step(f"fuzz {p.stem}", [PYTHON, "tests/fuzz.py", p.stem, str(FUZZ_SECONDS)], FUZZ_SECONDS + 120, kind="one")
            for p in sorted(pathlib.Path("tests/fuzz").glob("*.c"))]


# The target on the host lane, which takes some milliseconds a row: few prompts, short texts, samplings by number (tests/lib/gate.h).
LANE_ENV = {"GATE_DEVICE": "cuda:0", "GATE_SCALE": "20", "GATE_TOKENS": "8"}
LANE_GATES = [("equality", "test_c*", "random", "1"), ("equality", "test_tr*", "random", "1"), ("equality", "test_tu*", "random", "1"),
              ("equality", "test_pre*", "random", "1"), ("equality", "test_re*", "random", "1"),
              ("equality", "test_chunks", "experts", "4"), ("oracle", "*", "random", "6"), ("oracle", "test_16_clients", "experts", "2"),
              ("oracle", "test_16_nodes", "tiny", "1"), ("extras", "test_drafting", "random", "6")]


def lane_gates():
    return [Step(f"lane {' '.join(g)}", [f"build/gcc/lane/tests/gate/{g[0]}", *g[1:3]], 1200, env=dict(LANE_ENV, GATE_HOWS=g[3])) for g in LANE_GATES]


def lane_breaks():
    lines = [l.split() for l in pathlib.Path("tests/cuda/breaks.txt").read_text().splitlines() if l and l[0] != "#"]
    return [Step(f"break {l[0]}", [PYTHON, "tests/cuda_breaks.py", *l], 1800, kind="one") for l in lines]


# What is checked access by access: every kernel, and a whole pass of both kinds; not the engine around them.
CHECKED_PARTS = {"lost": [], "backend": [["test_dense_q8"], ["test_experts_fp8"]]}


def lane_tests():
    checked = units("gcc/checked", ["hostsim/test", "cuda"], parts=CHECKED_PARTS)
    bench = Step("tests/bench/gpu.py --lane", [PYTHON, "tests/bench/gpu.py", "--lane"])
    return units("gcc/lane", ["hostsim/test", "cuda"]) + checked + lane_gates() + [bench]


def breaks():
    lines = [l.split() for l in pathlib.Path("tests/gate/breaks.txt").read_text().splitlines() if l and l[0] != "#"]
    return [Step(f"break {l[0]}", [PYTHON, "tests/breaks.py", *l], 1800, env={"GATE_SCALE": "4"}, kind="one") for l in lines]


SAN_ENV = {"ASAN_OPTIONS": "detect_stack_use_after_return=1", "UBSAN_OPTIONS": "print_stacktrace=1", "GATE_SCALE": "8"}
TSAN_ENV = {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1", "GATE_SCALE": "20"}


def stage_table():
    return {
        "style": [Step("include table", [PYTHON, "tests/layers.py"], 60, kind="one"),
                  Step("format", ["sh", "-c", "clang-format --dry-run -Werror $(git ls-files '*.c' '*.h' '*.cpp' '*.cu' '*.cuh')"], 300, kind="one")],
        "gcc": [build("gcc", "all", "tests", "bench", "daemon-tests")] + units("gcc", ["unit", "pair", "golden"]),
        "gate": units("gcc", ["gate"]),
        "lane": [build("lane", "lane-tests")] + lane_tests() + lane_breaks() + [Step("nvcc", [PYTHON, "tests/nvcc.py"], 1800)],
        "daemon": scripts("gcc"),
        "clang": [build("clang", "CC=clang", "all", "tests", "daemon-tests")] + units("clang", ["unit", "pair"])
                 + [Step("build/clang/tests/gate/pinned", ["build/clang/tests/gate/pinned"])],
        "address": [build("address", "SAN=address", "OPT=-O1", "all", "tests", "daemon-tests")]
                   + units("gcc-address", ["unit", "pair", "golden", "gate"], SAN_ENV) + scripts("gcc-address", SAN_ENV, ADDRESS_SCRIPTS),
        "thread": [build("thread", "SAN=thread", "all", "tests", "daemon-tests")]
                  + [s for s in units("gcc-thread", ["unit", "gate"], TSAN_ENV, parts=THREAD_PARTS) if pathlib.Path(s.command[0]).stem in THREADED]
                  + scripts("gcc-thread", TSAN_ENV, THREAD_SCRIPTS),
        "fuzz": [build("fuzz", "CC=clang", "SAN=fuzzer", "fuzz")] + fuzzers(),
        "breaks": [build("gcc", "tests")] + breaks(),
    }


# What has threads, and what a sanitizer has to see of the daemon.
ALONE = {"test_idle", "test_bench"}  # these measure
ADDRESS_SCRIPTS = {"test_wire", "test_wire_fake", "test_interop", "test_client_wire", "test_demo", "test_bench"}
THREAD_SCRIPTS = {"test_wire", "test_wire_fake", "test_demo"}
THREADED = {"ring", "pool", "cache", "forward", "engine", "engine_pages", "family", "equality"}

CMOCKA = {"OK": "passed", "FAILED": "failed", "SKIPPED": "skipped"}


def read_output(step, text, code):
    r = Result()
    for line in text.splitlines():
        m = re.match(r"\[\s+(OK|FAILED|SKIPPED)\s+\] (\w+)$", line)
        if m:
            getattr(r, CMOCKA[m[1]]).append(f"{step.name}: {m[2]}")
        m = re.match(r"(ok|FAIL|skip) (\S+)(.*)", line)
        if m:
            getattr(r, {"ok": "passed", "FAIL": "failed", "skip": "skipped"}[m[1]]).append(f"{step.name}: {m[2]}{m[3]}")
    r.failed = sorted(set(r.failed))  # cmocka lists the failed ones twice
    if not r.passed and not r.failed and not r.skipped:
        r.failed.append(f"{step.name}: no test ran")
    if code and not r.failed:
        r.failed.append(f"{step.name}: exit status {code}")
    return r


def execute(step):
    """Output, exit status and seconds of processor time, those of its own children included."""
    with tempfile.TemporaryFile() as out:
        start = time.monotonic()
        p = subprocess.Popen(step.command, stdout=out, stderr=subprocess.STDOUT, env=step.env, stdin=subprocess.DEVNULL)
        late = threading.Timer(step.seconds, os.kill, (p.pid, signal.SIGKILL))
        late.start()
        _, status, used = os.wait4(p.pid, 0)
        late.cancel()
        p.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text, code, cpu = out.read().decode("utf-8", "replace"), p.returncode, used.ru_utime + used.ru_stime
    if time.monotonic() - start >= step.seconds:
        return text + f"\nexceeded {step.seconds} s\n", 124, cpu
    return text, code, cpu


def run(step):
    start = time.time()
    try:
        text, code, cpu = execute(step)
    except OSError as e:
        text, code, cpu = str(e), 127, 0.0
    if step.kind == "one":
        r = Result()
        (r.failed if code else r.passed).append(step.name)
    else:
        r = read_output(step, text, code)
    return step, r, text, time.time() - start, cpu


def report(step, r, text, seconds, cpu):
    state = "FAILED" if r.failed else "ok"
    print(f"{state:6} {step.name}  {len(r.passed)} passed, {len(r.skipped)} skipped, {seconds:.1f} s ({cpu:.1f} s of CPU)", flush=True)
    for s in r.skipped:
        print(f"       skipped {s}")
    if r.failed:
        for f in r.failed:
            print(f"       failed {f}")
        tail = text.splitlines()[-60:]
        print("\n".join("       | " + line for line in tail), flush=True)


def finish(waiting, results):
    for f in concurrent.futures.as_completed(waiting):
        results.append(f.result())
        report(*results[-1])
    waiting.clear()


def stage_run(steps):
    results, waiting = [], []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for step in steps:
            if not step.alone:
                waiting.append(pool.submit(run, step))
                continue
            finish(waiting, results)
            results.append(run(step))
            report(*results[-1])
            if step.name.startswith("build") and results[-1][1].failed:
                return results
        finish(waiting, results)
    return results


def unexpected(skipped):
    allowed = [l.strip() for l in pathlib.Path("tests/skips.txt").read_text().splitlines() if l.strip() and l[0] != "#"]
    return [s for s in skipped if not any(re.search(a, s) for a in allowed)]


def main(names):
    table = stage_table()
    total = Result()
    for name in names or table:
        print(f"--- {name}", flush=True)
        start = time.time()
        cpu = 0.0
        for _, r, _, _, used in stage_run(table[name]):
            cpu += used
            total.passed += r.passed
            total.failed += r.failed
            total.skipped += r.skipped
        print(f"--- {name}: {time.time() - start:.0f} s ({cpu:.0f} s of CPU)", flush=True)
    for s in unexpected(total.skipped):
        total.failed.append(f"not in tests/skips.txt: {s}")
    for f in total.failed:
        print(f"failed {f}")
    print(f"{len(total.passed)} passed, {len(total.failed)} failed, {len(total.skipped)} skipped")
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
