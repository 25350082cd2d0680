#!/usr/bin/env python3
"""tests/gpu.py BUILD: what `make gpu-check` runs on the GPU at hand: the kernel tests, bare and under compute-sanitizer where there is
one, and the equality gates with the target on it.  Exit 1 if something failed, or if there is no GPU."""
import os
import shutil
import subprocess
import sys

GATES = ["oracle", "equality", "extras", "budget", "stop"]
ENV = dict(os.environ, GATE_DEVICE="cuda:0", GATE_SCALE=os.environ.get("GATE_SCALE", "4"))


def run(name, *command):
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENV)
    text = p.stdout.decode("utf-8", "replace")
    print(f"{'ok' if p.returncode == 0 else 'FAIL'} {name}", flush=True)
    if p.returncode:
        print("\n".join("    | " + l for l in text.splitlines()[-30:]), flush=True)
    return p.returncode != 0


def main(build):
    failed = 0
    programs = [f"{build}/gpu/tests/{p}" for p in ("hostsim/test/warp", "cuda/kernels", "cuda/draw", "cuda/backend")]
    for p in programs:
        failed += run(p, p)
    sanitizer = shutil.which("compute-sanitizer")
    if not sanitizer:
        print("skip compute-sanitizer: not found")
    for tool in ("memcheck", "racecheck") if sanitizer else ():
        for p in programs[1:3]:
            failed += run(f"{tool} {p}", sanitizer, "--tool", tool, "--error-exitcode", "9", p)
    for g in GATES:
        failed += run(f"gate {g}", f"{build}/tests/gate/{g}")
    print(f"{failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
