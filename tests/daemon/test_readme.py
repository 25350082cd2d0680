#!/usr/bin/python3
"""The README's client, word for word: its protoc line and its Python, against the real daemon.  Usage: see wire_harness.py."""
import os
import re
import subprocess
import sys
import tempfile

from wire_harness import ARGS, ROOT, TARGET, Daemon, Setup, check

README = (ROOT / "README.md").read_text()


def fenced(language):
    return re.search(rf"```{language}\n(.*?)```", README, re.S).group(1)


def protoc_line():
    return re.search(r"^    (protoc .*?inference\.proto)$", README, re.S | re.M).group(1)


def run_client():
    with Daemon() as d, tempfile.TemporaryDirectory() as stubs:
        line = protoc_line().replace("--python_out=. --grpc_python_out=.", f"--python_out={stubs} --grpc_python_out={stubs}")
        check(stubs in line, line)
        subprocess.run(line, shell=True, check=True, cwd=ROOT)
        client = fenced("python").replace("127.0.0.1:8311", d.address)
        p = subprocess.run(["/usr/bin/python3", "-c", client], cwd=stubs, stdout=subprocess.PIPE, timeout=120, check=True)
        text = p.stdout.decode()
        check("44 * 4 = 176." in text, text)
        check(re.search(r"\n\d+ tokens in \d+ passes of the target\n$", text), text)


def main():
    Setup.fake = False
    Setup.outriderd = os.environ.get("OUTRIDERD", "build/gcc/outriderd")
    ARGS.extend(["--draft", str(TARGET.parent / "draft"), "--target-quant", "q8"])
    try:
        run_client()
    except Exception as e:
        print(f"FAIL test_python_client {e!r}".replace("\n", " "))
        return 1
    print("ok test_python_client")
    return 0


if __name__ == "__main__":
    sys.exit(main())
