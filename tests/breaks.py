#!/usr/bin/env python3
"""tests/breaks.py NAME PROGRAM TEST: builds with -DBREAK_NAME and exits 0 only if PROGRAM fails in TEST, and passes unbroken.

PROGRAM is one of tests/gate, or lane/FOLDER/PROGRAM or checked/FOLDER/PROGRAM: one of tests/FOLDER with the CUDA sources on the host
lane.  A gate that cannot go red proves nothing.  Only the files that mention BREAK_NAME are compiled anew."""
import os
import pathlib
import re
import subprocess
import sys


def grep(pattern, *globs):
    p = subprocess.run(["git", "grep", "-lwF", pattern, "--", *globs], stdout=subprocess.PIPE)
    return [f for f in p.stdout.decode().split() if not f.startswith("tests/")]


def objects(name, lane):
    """The sources that say BREAK_NAME, or include a header that does."""
    if not lane:
        return grep(f"BREAK_{name}", "*.c")
    found = set(grep(f"BREAK_{name}", "*.cu", "*.cuh"))
    headers = {f for f in found if f.endswith(".cuh")}
    while headers:
        more = {f for h in headers for f in grep(f'#include "{h}"', "*.cu", "*.cuh")} - found
        found |= more
        headers = {f for f in more if f.endswith(".cuh")}
    return sorted(f for f in found if f.endswith(".cu"))


def commands(*args):
    return subprocess.run(["make", "-n", "V=1", *args], stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()


def compile_broken(name, source, lane, out):
    stem, suffix = source.rsplit(".", 1)
    target = f"build/gcc/{lane + '/' if lane and suffix == 'cu' else ''}{stem}.o"
    line = next(l for l in commands("-W", source, target) if f"-o {target}" in l)
    made = out / (stem.replace("/", "_") + ".o")
    line = re.sub(r"-MMD -MP", f"-DBREAK_{name}=1", line).replace(f"-o {target}", f"-o {made}")
    subprocess.run(line, shell=True, check=True)
    return str(made), target


def build(name, program):
    lane, folder, stem = program.split("/") if "/" in program else ("", "gate", program)
    binary = f"build/gcc/{lane + '/' if lane else ''}tests/{folder}/{stem}"
    subprocess.run(["make", "-j2", "-s", *([binary] if lane else ["tests"])], check=True)
    out = pathlib.Path(f"build/breaks/{name}")
    out.mkdir(parents=True, exist_ok=True)
    broken = [compile_broken(name, s, lane, out) for s in objects(name, lane)]
    if not broken:
        sys.exit(f"no source mentions BREAK_{name}")
    source = next(p for p in pathlib.Path("tests", folder).glob(f"{stem}.c*"))
    line = next(l for l in commands("-W", str(source), binary) if f"-o {binary} " in l)
    made = out / stem
    for _, whole in broken:  # one that stands in the line by itself, not in the archive
        line = line.replace(f" {whole} ", " ")
    line = line.replace(f"-o {binary} ", f"-o {made} {' '.join(b for b, _ in broken)} ")
    subprocess.run(line, shell=True, check=True)
    return made


def main(name, program, test):
    binary = build(name, program)
    env = dict(os.environ, GATE_DEVICE="cuda:0") if "/" in program else None
    p = subprocess.run([str(binary), test], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500, env=env)
    text = p.stdout.decode("utf-8", "replace")
    print(text[-3000:])
    if p.returncode == 0:
        sys.exit(f"BREAK_{name}: {program} passed a broken build")
    if not re.search(rf"\[  FAILED  \] {test}$", text, re.M):
        sys.exit(f"BREAK_{name}: {program} failed, but not in {test}")
    print(f"BREAK_{name}: caught by {program}: {test}")


if __name__ == "__main__":
    main(*sys.argv[1:])
