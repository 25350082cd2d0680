#!/usr/bin/env python3
"""tests/fuzz.py TARGET SECONDS: runs one libFuzzer target over its corpus (in git) and new inputs (not in git)."""
import pathlib
import subprocess
import sys


def main(target, seconds):
    corpus, found = pathlib.Path("tests/fuzz/corpus", target), pathlib.Path("build/fuzz-corpus", target)
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    p = subprocess.run([f"build/clang-fuzzer/fuzz/{target}", f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096",
                        "-print_final_stats=1", f"-artifact_prefix=build/fuzz-corpus/{target}-", str(found), str(corpus)])
    return p.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
