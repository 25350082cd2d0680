#!/usr/bin/env python3
"""tests/cuda_breaks.py NAME PROGRAM TEST [SOURCE]: compiles the kernels that mention BREAK_NAME (or SOURCE, where a header does) for the
host lane with that defined, and exits 0 only if PROGRAM then fails in TEST.  See breaks.py."""
import os
import sys

import breaks


def main(name, program, test, source=None):
    own = f"tests/{program}.cu" if program.startswith("cuda") else f"tests/{program}.c"
    found = [source] if source else breaks.sources(name, "*.cu")
    made = breaks.build(name, f"build/gcc/lane/tests/{program}", own, found, "build/gcc/lane")
    env = dict(os.environ, GATE_DEVICE="cuda:0", GATE_SCALE="20", GATE_TOKENS="12")
    breaks.expect_red(name, program, test, [made, test] + (["random"] if program.startswith("gate") else []), env)


if __name__ == "__main__":
    main(*sys.argv[1:])
