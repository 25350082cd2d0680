#!/usr/bin/env python3
"""tests/breaks.py NAME PROGRAM TEST [PAIR]: builds with -DBREAK_NAME and exits 0 only if PROGRAM fails in TEST (with PAIR of models).

A gate that cannot go red proves nothing.  Only the files that mention BREAK_NAME are compiled anew."""
import pathlib
import re
import subprocess
import sys


def objects(name):
    text = subprocess.run(["git", "grep", "-lw", f"BREAK_{name}", "--", "*.c"], stdout=subprocess.PIPE, check=True).stdout.decode()
    return [f for f in text.split() if not f.startswith("tests/")]


def build(name, program):
    subprocess.run(["make", "-j2", "-s", f"build/gcc/tests/gate/{program}"], check=True)
    out = pathlib.Path(f"build/breaks/{name}")
    out.mkdir(parents=True, exist_ok=True)
    broken = []
    for source in objects(name):
        target = f"build/gcc/{source[:-2]}.o"
        command = subprocess.run(["make", "-n", "-W", source, "V=1", target], stdout=subprocess.PIPE, check=True).stdout.decode()
        line = next(l for l in command.splitlines() if f"-o {target}" in l)
        made = out / (source.replace("/", "_")[:-2] + ".o")
        line = re.sub(r"-MMD -MP", f"-DBREAK_{name}=1", line).replace(f"-o {target}", f"-o {made}")
        subprocess.run(line, shell=True, check=True)
        broken.append(str(made))
    if not broken:
        sys.exit(f"no source mentions BREAK_{name}")
    link = subprocess.run(["make", "-n", "-W", f"tests/gate/{program}.c", "V=1", f"build/gcc/tests/gate/{program}"],
                          stdout=subprocess.PIPE, check=True).stdout.decode()
    line = next(l for l in link.splitlines() if f"-o build/gcc/tests/gate/{program} " in l)
    made = out / program
    line = line.replace(f"-o build/gcc/tests/gate/{program} ", f"-o {made} {' '.join(broken)} ")
    subprocess.run(line, shell=True, check=True)
    return made


def main(name, program, test, *pair):
    binary = build(name, program)
    p = subprocess.run([str(binary), test, *pair], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500)
    text = p.stdout.decode("utf-8", "replace")
    print(text[-3000:])
    if p.returncode == 0:
        sys.exit(f"BREAK_{name}: {program} passed a broken build")
    if not re.search(rf"\[  FAILED  \] {test}$", text, re.M):
        sys.exit(f"BREAK_{name}: {program} failed, but not in {test}")
    print(f"BREAK_{name}: caught by {program}: {test}")


if __name__ == "__main__":
    main(*sys.argv[1:])
