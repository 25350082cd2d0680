#!/usr/bin/env python3
"""tests/gpu.py BUILD: what `make gpu-check` runs on the GPU at hand: the kernel tests, bare and under compute-sanitizer where there is
one, and the equality gates with the target on it.  Prints "ok NAME", "FAIL NAME" or "skip NAME why" a line.  Exit 1 if something
failed, 2 if there is no GPU.

GATE_SCALE (default 4) divides the gates' prompts; GATE_SCALE=1 runs all of them."""
import json
import os
import shutil
import subprocess
import sys

GATES = ["oracle", "equality", "extras", "mixed", "budget", "stop"]
KERNELS = ["cuda/kernels", "cuda/attention", "cuda/draw"]
ENV = dict(os.environ, GATE_DEVICE="cuda:0", GATE_SCALE=os.environ.get("GATE_SCALE", "4"))


def run(name, *command):
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENV)
    text = p.stdout.decode("utf-8", "replace")
    print(f"{'ok' if p.returncode == 0 else 'FAIL'} {name}", flush=True)
    if p.returncode:
        print("\n".join("    | " + l for l in text.splitlines()[-30:]), flush=True)
    return p.returncode != 0


def card(build):
    p = subprocess.run([f"{build}/gpu/tests/bench/gpu", "--bandwidth", "--megabytes", "64"], capture_output=True)
    if p.returncode:
        said = p.stderr.decode("utf-8", "replace").strip()
        print(f"gpu-check: there is no GPU to check on ({said}); it needs an NVIDIA card of capability 8.0 or later and its driver.  "
              "`tests/run.py lane` runs the same kernels on the CPU")
        sys.exit(2)
    return json.loads(p.stdout)["card"]


def main(build):
    print(f"on {card(build)}", flush=True)
    failed = sum(run(p, f"{build}/gpu/tests/{p}") for p in ["hostsim/test/warp", *KERNELS, "cuda/backend"])
    sanitizer = shutil.which("compute-sanitizer")
    if not sanitizer:
        print("skip compute-sanitizer not found on PATH")
    for tool in ("memcheck", "racecheck") if sanitizer else ():
        for p in KERNELS:
            failed += run(f"{tool} {p}", sanitizer, "--tool", tool, "--error-exitcode", "9", f"{build}/gpu/tests/{p}")
    for g in GATES:
        failed += run(f"gate {g}", f"{build}/tests/gate/{g}")
    print(f"{failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
