#!/usr/bin/python3
"""--pack-cache through the daemon: a first start fills it, the next ones say that they start from it, a spoiled file and a directory
that is none cost nothing but time; the text is the same each time, two daemons at once included; and --pin and threads change none.

Usage and environment: see wire_harness.py."""
import pathlib
import tempfile

from stubs import pb
from wire_harness import TARGET, Daemon, answer, check, eventually, main, test, text_request

DRAFT = TARGET.parent / "draft"


def ids(d):
    return [answer(d.stub().Generate(text_request(f"What is {i} + {i}?", max_tokens=40, sampling=pb.Sampling(seed=i)))).ids for i in range(3)]


def wait_written(d, n=2):
    eventually("the files are written", 60, lambda: d.log().count(" MB to ") == n)


def start(where, *flags):
    return Daemon("--draft", DRAFT, "--pack-cache", where, *flags)


@test()
def text_is_the_same():
    with Daemon("--draft", DRAFT) as d:
        want = ids(d)
    with tempfile.TemporaryDirectory() as where:
        cache = pathlib.Path(where) / "made"
        with start(cache) as d:
            wait_written(d)
            check(ids(d) == want, "the start that fills the cache says something else")
        files = sorted(cache.iterdir())
        check(len(files) == 2 and all(f.suffix == ".pack" for f in files), f"{files}")
        with start(cache, "--threads", 2, "--draft-threads", 1) as d, start(cache, "--pin", "off", "--threads", 3) as other:
            check(d.log().count(", proved in ") == 2, d.log())
            check(ids(d) == want and ids(other) == want, "starts from the cache say something else")
        b = bytearray(files[0].read_bytes())
        b[-7] ^= 16
        files[0].write_bytes(b)
        with start(cache) as d:
            check("is spoiled in 1 of " in d.log() and d.log().count(", proved in ") == 1, d.log())
            wait_written(d, 1)
            check(ids(d) == want, "after a spoiled file it says something else")
        with start(cache) as d:
            check(d.log().count(", proved in ") == 2, d.log())
        with start(files[0] / "below") as d:
            check("served without it" in d.log(), d.log())
            check(ids(d) == want, "without a cache it says something else")


main(fake=False)
