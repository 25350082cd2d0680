"""What the tests of the `outrider` command share: running it, a terminal for it, the runner.

A test file is run as FILE [NAME...], with the build directory in $BUILD (default build/gcc); it prints `ok NAME`, `FAIL NAME why` or
`skip NAME why` a test and exits 1 if one failed.
"""
import errno
import os
import pathlib
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from fake_server import FakeServer, tokens_of
from stubs import ROOT

BUILD = (ROOT / os.environ.get("BUILD", "build/gcc")).resolve()
OUTRIDER = str(BUILD / "outrider")
PATIENCE = 150  # seconds; a sanitizer build on a busy machine still makes it, and nothing waits it out unless it hangs


class Skip(Exception):
    """What the test needs is not there."""


def text_of(prompt, column):
    return "".join(t[column] for t in tokens_of(prompt, True))


def outrider(*args, stdin=b"", env=None):
    """-> (exit status, stdout, stderr), bytes."""
    p = subprocess.run([OUTRIDER, *args], input=stdin, capture_output=True, timeout=PATIENCE, env={**os.environ, **(env or {})})
    return p.returncode, p.stdout, p.stderr


def eq(got, want, what=""):
    assert got == want, f"{what}: got {got!r}, expected {want!r}"


def has(text, part):
    assert part in text, f"{part!r} is not in {text!r}"


def generate(server, *args, **k):
    return outrider("generate", "--server", server.address, *args, **k)


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *args):
        self.out = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(OUTRIDER, [OUTRIDER, *args], {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"})

    def type(self, keys):
        os.write(self.fd, keys)

    def expect(self, part, since=0):
        """Reads until `part` has come after `since`; returns where it ended."""
        end = time.monotonic() + PATIENCE
        while part not in self.out[since:]:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"{part!r} did not come; got {self.out[since:]!r}"
            assert self.read(), f"the command ended; {part!r} did not come; got {self.out[since:]!r}"
        return self.out.index(part, since) + len(part)

    def read(self):
        try:
            some = os.read(self.fd, 65536)
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            some = b""
        self.out += some
        return some

    def leave(self):
        """Ctrl-D until the command ends.  One that is typed while the line editor takes over the terminal is lost, as to anybody."""
        for _ in range(PATIENCE):
            self.type(b"\x04")
            if select.select([self.fd], [], [], 1)[0] and not self.read():
                break
        return self.wait()

    def wait(self):
        end = time.monotonic() + PATIENCE
        while True:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"the command does not end; got {self.out!r}"
            if not self.read():
                break
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Daemon:
    """The real outriderd with the tiny pair, on a Unix socket, until the with block ends; it must end with status 0."""

    def __init__(self, *flags):
        self.flags, self.killed, self.dir = flags, False, tempfile.TemporaryDirectory(prefix="outrider-client-")
        self.address, self.log = f"unix:{self.dir.name}/socket", pathlib.Path(self.dir.name, "log")

    def __enter__(self):
        if not (BUILD / "outriderd").exists():
            raise Skip(f"{BUILD}/outriderd is not built")
        command = [BUILD / "outriderd", "--target", ROOT / "assets/tiny/target", "--draft", ROOT / "assets/tiny/draft", "--listen", self.address, *self.flags]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        eq(outrider("health", "--wait", str(PATIENCE), "--server", self.address)[0], 0, self.log.read_text())
        return self

    def kill(self):
        self.process.kill()
        self.killed = True

    def __exit__(self, *_):
        self.process.terminate()
        try:
            eq(self.process.wait(PATIENCE), -signal.SIGKILL if self.killed else 0, f"outriderd's end; {self.log.read_text()}")
        finally:
            self.process.kill()
            self.dir.cleanup()


def run_tests(tests):
    """tests: a module's globals(); each test_* gets a fresh fake server."""
    failed = 0
    for name in sys.argv[1:] or [n for n in tests if n.startswith("test_")]:
        server = FakeServer("127.0.0.1:0")
        try:
            tests[name](server)
            print("ok", name, flush=True)
        except Skip as why:
            print("skip", name, why, flush=True)
        except Exception as why:  # a test's failure is whatever it raises
            failed += 1
            print("FAIL", name, " ".join(str(why).split()) or type(why).__name__, flush=True)
            traceback.print_exc()
        finally:
            server.stop()
    return failed > 0
