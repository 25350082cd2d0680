#!/usr/bin/env python3
"""The CUDA sources for every architecture, warnings as errors; and what ptxas says of the kernels named hot: no spills.

Prints a line a test.  Without nvcc on PATH: one skip.  Hot kernels: tests/cuda/hot.txt, a name a line."""
import pathlib
import re
import shutil
import subprocess
import sys

PROPERTIES = re.compile(r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
ARCHITECTURES = 4


def hot_names():
    lines = pathlib.Path("tests/cuda/hot.txt").read_text().splitlines()
    return [l.split("#")[0].strip() for l in lines if l.split("#")[0].strip()]


def is_of(name, mangled):
    return re.search(rf"(?<!\d){len(name)}{name}", mangled)  # a mangled name says its own length


def check(name, found):
    mine = [f for f in found if is_of(name, f[0])]
    spilled = [f for f in mine if int(f[2]) or int(f[3])]
    if not mine or len(mine) % ARCHITECTURES:
        return f"FAIL {name} seen {len(mine)} times in what ptxas said, not once an instance and architecture"
    if spilled:
        return f"FAIL {name} {spilled[0][0]} spills {spilled[0][2]} bytes out, {spilled[0][3]} in; {len(spilled)} of {len(mine)}"
    return f"ok {name} {len(mine) // ARCHITECTURES} instances, {ARCHITECTURES} architectures, largest stack {max(int(f[1]) for f in mine)} bytes"


def main():
    if not shutil.which("nvcc"):
        print("skip nvcc not found on PATH: the CUDA sources were compiled by g++ alone")
        return 0
    p = subprocess.run(["make", "-j2", "nvcc"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = p.stdout.decode("utf-8", "replace")
    if p.returncode:
        print(text[-6000:])
        print("FAIL compile every source for every architecture without a warning")
        return 1
    print("ok compile")
    logs = [q.read_text() for q in sorted(pathlib.Path("build/nvcc").rglob("*.log"))]
    found = [f for log in logs for f in PROPERTIES.findall(log)]
    lines = [check(name, found) for name in hot_names()]
    print("\n".join(lines))
    return any(l.startswith("FAIL") for l in lines)


if __name__ == "__main__":
    sys.exit(main())
