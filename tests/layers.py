#!/usr/bin/env python3
"""The include table of DESIGN.md section 2: includes may only point left.  Exit 1 with a line for each that does not."""
import pathlib
import re
import sys

ALLOWED = {
    "core": "core",
    "model": "core model",
    "cpu": "core model cpu",
    "draw": "core model cpu draw",
    "draft": "core model cpu draw draft",
    "target": "core model cpu draw target",
    "verifier": "core model cpu draw verifier",
    "proto": "core proto outrider grpc",
    "daemon": "core model cpu draw draft target verifier proto daemon",
    "client": "core model cpu draw proto outrider grpc client",
}
# Outside its folder a module shows one public header (one a file in core/ and model/).
ONE_HEADER = {"cpu": "cpu.h", "draw": "draw.h", "draft": "draft.h", "target": "target.h", "verifier": "verifier.h"}
JOINS = {"draft/draft.h": "draft", "target/target.h": "target", "verifier/verifier.h": "verifier"}


def main():
    bad = []
    for path in sorted(p for d in ALLOWED for p in pathlib.Path(d).rglob("*") if p.suffix in (".c", ".h", ".cu", ".cuh")):
        folder = path.parts[0]
        text = path.read_text()
        own = re.findall(r'^#include "([^"]+)"', text, re.M)
        for inc in own:
            there = inc.split("/")[0]
            if there not in ALLOWED[folder].split():
                bad.append(f"{path}: includes {inc}: {folder}/ may include {ALLOWED[folder]}")
            elif there != folder and there in ONE_HEADER and inc != f"{there}/{ONE_HEADER[there]}":
                bad.append(f"{path}: includes {inc}: {there}/ shows {ONE_HEADER[there]} alone")
        if {"draft/draft.h", "target/target.h", "verifier/verifier.h"} <= set(own) and str(path) not in ROUND:
            bad.append(f"{path}: joins draft, target and verifier: daemon/round.c and round_open.c do, by daemon/round_inside.h")
        if "nghttp2/nghttp2.h" in text and any(i.startswith(("proto/", "outrider/")) for i in own) and folder == "daemon":
            if str(path) != "daemon/rpc.c":
                bad.append(f"{path}: joins nghttp2 and proto: daemon/rpc.c is the one file that does")
    print("\n".join(bad) or "include table: kept")
    return bool(bad)


ROUND = {"daemon/round_inside.h"}  # of round.c and round_open.c

if __name__ == "__main__":
    sys.exit(main())
