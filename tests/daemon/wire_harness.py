"""What the tests of the daemon's wire share: a daemon as a context manager, and a runner that prints one line a test.

Environment: BUILD the build directory; OUTRIDERD the real daemon; OUTRIDERD_ARGS more flags for it; OUTRIDER_SHARED where test
models lie if assets/tiny does not.  Tests marked fake=True are run with the fake engine only: its pace and words are known; those
marked real=True with the real one: the fake one draws nothing."""
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

import grpc

from stubs import health_pb, health_rpc, pb, rpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = os.environ.get("BUILD", "build/gcc")
SHARED = pathlib.Path(os.environ.get("OUTRIDER_SHARED", "../shared"))
TARGET = next((d for d in (ROOT / "assets/tiny/target", SHARED / "tiny/target") if (d / "model.safetensors").exists()), None)
ARGS = shlex.split(os.environ.get("OUTRIDERD_ARGS", ""))
NO_LIMITS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
tmp = tempfile.TemporaryDirectory(prefix="outrider-wire-")


class Setup:
    """Which daemon is tested: set by main."""

    fake = True
    outriderd = ""


class Skip(Exception):
    pass


def check(ok, why="check failed"):
    if not ok:
        raise AssertionError(why)


def equal(got, want, what="value"):
    check(got == want, f"{what}: got {got!r}, want {want!r}")


class Daemon:
    """Runs outriderd until the with block ends; fails if it did not end cleanly or a sanitizer spoke."""

    count = 0

    def __init__(self, *flags, listen=("127.0.0.1:0",), status=0, slow=False, **env):
        Daemon.count += 1
        self.want_status = status
        self.log_path = f"{tmp.name}/{Daemon.count}.log"
        if slow:  # about 50 tokens a second; the real one as slow as it goes
            env = {"FAKE_ROUND_US": 20000, "FAKE_BURST": 1, **env}
            flags = flags if Setup.fake else (*flags, "--isa", "twin", "--threads", 1)
        self.env = {**os.environ, **{k: str(v) for k, v in env.items()}}
        self.argv = [Setup.outriderd, "--target", str(TARGET), "--log-level", "debug", "--device", "cpu", *ARGS, *map(str, flags)]
        for where in listen:
            self.argv += ["--listen", where]

    def log(self):
        return pathlib.Path(self.log_path).read_text(errors="replace")

    def __enter__(self):
        self.channels = []
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(self.argv, env=self.env, stdout=log, stderr=log)
        self.pid = self.process.pid
        end = time.time() + 120
        while " serving " not in self.log():
            if self.process.poll() is not None or time.time() > end:
                raise AssertionError(f"outriderd did not start:\n{self.log()}")
            time.sleep(0.01)
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", self.log())
        self.port = int(found.group(1)) if found else None
        self.address = f"127.0.0.1:{self.port}"
        return self

    def __exit__(self, kind, value, trace):
        for c in self.channels:
            c.close()
        if self.process.poll() is None and " draining" not in self.log():
            self.process.send_signal(signal.SIGTERM)  # a second one would stop it at once
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = "killed: it did not end within 60 s of SIGTERM"
        if kind is None:
            check(status == self.want_status, f"exit status {status}, want {self.want_status}\n{self.log()[-3000:]}")
            check("Sanitizer" not in self.log(), self.log()[-6000:])

    def channel(self, address=None, options=()):
        # A pool of its own: channels to one address share a connection otherwise.
        c = grpc.insecure_channel(address or self.address, [("grpc.use_local_subchannel_pool", 1), *NO_LIMITS, *options])
        self.channels.append(c)
        return c

    def stub(self, **kw):
        return rpc.InferenceStub(self.channel(**kw))

    def health(self, **kw):
        return health_rpc.HealthStub(self.channel(**kw))

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def cpu_ticks(self):
        f = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(f[11]) + int(f[12])

    def rss_kib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{self.pid}/status").read_text()).group(1))


class Answer:
    """A whole stream, with what must hold for every one of them."""

    def __init__(self, events):
        self.begin = self.end = None
        self.deltas = []
        for ev in events:
            check(self.end is None, "an event after End")
            kind = ev.WhichOneof("event")
            if kind == "begin":
                check(self.begin is None and not self.deltas, "Begin is not the first event")
                self.begin = ev.begin
            elif kind == "delta":
                check(self.begin is not None, "a Delta before Begin")
                self.deltas.append(ev.delta)
            else:
                self.end = ev.end
        self.content = "".join(d.content for d in self.deltas)
        self.reasoning = "".join(d.reasoning for d in self.deltas)
        self.ids = [i for d in self.deltas for i in d.token_ids]

    def whole(self):
        check(self.begin is not None and self.end is not None, "Begin or End is missing")
        return self

    def adds_up(self, before=0):
        """before: tokens given by a stream that this one resumes."""
        self.whole()
        equal(len(self.ids) + before, self.end.usage.completion_tokens, "ids of all deltas")
        return self


def answer(stream, before=0):
    return Answer(stream).adds_up(before)


def refused(code, call, *args, **kw):
    """The sentence with which call is refused."""
    try:
        got = call(*args, **kw)
        if hasattr(got, "__next__"):
            list(got)
    except grpc.RpcError as e:
        equal(e.code(), code, f"status ({e.details()})")
        return e.details()
    raise AssertionError(f"not refused; want {code}")


def text_request(text="one two three", max_tokens=None, ignore_eos=True, **kw):
    r = pb.GenerateRequest(text=text, stopping=pb.Stopping(ignore_eos=ignore_eos), **kw)
    if max_tokens is not None:
        r.stopping.max_tokens = max_tokens
    return r


def eventually(what, seconds, fn):
    end = time.time() + seconds
    while True:
        got = fn()
        if got:
            return got
        check(time.time() < end, f"not within {seconds} s: {what}")
        time.sleep(0.01)


LONG = 1900  # tokens: more than any test waits for, and within the context of the tiny model


def tokens(with_fake, with_real):
    """How many to ask for: the real engine under a thread sanitizer makes a dozen a second."""
    return with_fake if Setup.fake else with_real


tests = []


def test(fake=False, real=False):
    def add(fn):
        tests.append((fn.__name__, fn, fake, real))
        return fn

    return add


def run_one(name, fn):
    try:
        if not TARGET:
            raise Skip("neither assets/tiny nor ../shared/tiny has weights")
        start = time.time()
        fn()
        print(f"ok {name} ({time.time() - start:.1f} s)", flush=True)
    except Skip as e:
        print(f"skip {name} {e}", flush=True)
    except Exception as e:  # noqa: BLE001
        where = traceback.extract_tb(e.__traceback__)
        line = next((f.lineno for f in where if f.name == name), where[-1].lineno)
        print(f"FAIL {name} line {line}: {type(e).__name__}: {e}", flush=True)
        if "-v" in sys.argv:
            traceback.print_exc()
        return 1
    return 0


def main(fake):
    """Runs the tests named as arguments, or all that this daemon can run."""
    Setup.fake = fake
    Setup.outriderd = f"{BUILD}/tests/daemon/outriderd-fake" if fake else os.environ.get("OUTRIDERD", f"{BUILD}/outriderd")
    wanted = [a for a in sys.argv[1:] if not a.startswith("-")]
    chosen = [t for t in tests if (t[0] in wanted or not wanted) and not (t[3] if fake else t[2])]
    failed = sum(run_one(*t[:2]) for t in chosen)
    sys.exit(failed > 0 or not chosen)
