#!/usr/bin/env python3
"""tests/breaks.py NAME PROGRAM TEST [PAIR]: builds with -DBREAK_NAME and exits 0 only if PROGRAM fails in TEST (with PAIR of models).

A gate that cannot go red proves nothing.  Only the files that mention BREAK_NAME are compiled anew."""
import pathlib
import re
import subprocess
import sys


def sources(name, kind):
    """Files of that kind ("*.c") that mention BREAK_NAME, tests apart."""
    text = subprocess.run(["git", "grep", "-lw", f"BREAK_{name}", "--", kind], stdout=subprocess.PIPE).stdout.decode()
    found = [f for f in text.split() if not f.startswith("tests/")]
    if not found:
        sys.exit(f"no source mentions BREAK_{name}")
    return found


def command_of(source, target):
    """What make runs to make the target anew because of the source."""
    text = subprocess.run(["make", "-n", "-W", source, "V=1", target], stdout=subprocess.PIPE, check=True).stdout.decode()
    return next(l for l in text.splitlines() if f"-o {target} " in l)


def build(name, binary, main, found, folder):
    """The program `binary`, whose own source is `main`, with the objects of the sources found under `folder` broken."""
    subprocess.run(["make", "-j2", "-s", binary], check=True)
    out = pathlib.Path("build/breaks", name)
    out.mkdir(parents=True, exist_ok=True)
    made, link = out / binary.split("/tests/")[1].replace("/", "_"), command_of(main, binary)
    for source in found:
        stem = source.rpartition(".")[0]
        target, broken = f"{folder}/{stem}.o", str(out / (stem.replace("/", "_") + ".o"))
        line = command_of(source, target).replace("-MMD -MP", f"-DBREAK_{name}=1").replace(f"-o {target} ", f"-o {broken} ")
        subprocess.run(line, shell=True, check=True)
        # An object of the link gives way; one of the library comes before it, and the library's is then not wanted.
        link = link.replace(f" {target} ", f" {broken} ") if f" {target} " in link else link.replace(f"-o {binary} ", f"-o {binary} {broken} ")
    subprocess.run(link.replace(f"-o {binary} ", f"-o {made} "), shell=True, check=True)
    return made


def expect_red(name, program, test, command, env=None):
    p = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1500, env=env)
    text = p.stdout.decode("utf-8", "replace")
    print(text[-3000:])
    if p.returncode == 0:
        sys.exit(f"BREAK_{name}: {program} passed a broken build")
    if not re.search(rf"\[  FAILED  \] {test}$", text, re.M):
        sys.exit(f"BREAK_{name}: {program} failed, but not in {test}")
    print(f"BREAK_{name}: caught by {program}: {test}")


def main(name, program, test, *pair):
    made = build(name, f"build/gcc/tests/gate/{program}", f"tests/gate/{program}.c", sources(name, "*.c"), "build/gcc")
    expect_red(name, program, test, [made, test, *pair])


if __name__ == "__main__":
    main(*sys.argv[1:])
