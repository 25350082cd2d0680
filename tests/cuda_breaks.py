#!/usr/bin/env python3
"""tests/cuda_breaks.py NAME PROGRAM TEST [SOURCE]: compiles the kernels that mention BREAK_NAME (or SOURCE, where a header does) for the
host lane with that defined, and exits 0 only if PROGRAM then fails in TEST.

A gate that cannot go red proves nothing.  Only that source is compiled anew."""
import os
import pathlib
import re
import subprocess
import sys


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()


def sources(name, source):
    return [source] if source else run("git", "grep", "-lw", f"BREAK_{name}", "--", "*.cu").split()


def line_of(source, target):
    text = run("make", "-n", "-W", source, "V=1", target)
    return next(l for l in text.splitlines() if f"-o {target} " in l)


def build(name, program, source):
    binary = f"build/gcc/lane/tests/{program}"
    subprocess.run(["make", "-j2", "-s", binary], check=True)
    out = pathlib.Path(f"build/breaks/{name}")
    out.mkdir(parents=True, exist_ok=True)
    made = out / program.replace("/", "_")
    link = line_of(f"tests/{program}.cu" if program.startswith("cuda") else f"tests/{program}.c", binary)
    found = sources(name, source)
    if not found:
        sys.exit(f"no source mentions BREAK_{name}")
    for source in found:
        target = f"build/gcc/lane/{source[:-3]}.o"
        broken = out / (source.replace("/", "_")[:-3] + ".o")
        line = line_of(source, target).replace("-MMD -MP", f"-DBREAK_{name}=1").replace(f"-o {target} ", f"-o {broken} ")
        subprocess.run(line, shell=True, check=True)
        link = link.replace(f" {target} ", f" {broken} ")
    subprocess.run(link.replace(f"-o {binary} ", f"-o {made} "), shell=True, check=True)
    return made


def main(name, program, test, source=None):
    binary = build(name, program, source)
    env = dict(os.environ, GATE_DEVICE="cuda:0", GATE_SCALE="20", GATE_TOKENS="12")
    command = [str(binary), test] + (["random"] if program.startswith("gate") else [])
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500, env=env)
    text = p.stdout.decode("utf-8", "replace")
    print(text[-2000:])
    if p.returncode == 0:
        sys.exit(f"BREAK_{name}: {program} passed a broken build")
    if not re.search(rf"\[  FAILED  \] {test}$", text, re.M):
        sys.exit(f"BREAK_{name}: {program} failed, but not in {test}")
    print(f"BREAK_{name}: caught by {program}: {test}")


if __name__ == "__main__":
    main(*sys.argv[1:])
