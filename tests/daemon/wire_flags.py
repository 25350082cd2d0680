"""The daemon's flags: what is refused, and in which words.  Run as wire_answers.py is."""
import os
import socket
import subprocess
import tempfile

from wire_harness import ARGS, TARGET, Setup, check, equal, test


def run(*args):
    """-> (exit status, stdout, stderr)"""
    p = subprocess.run([Setup.outriderd, *args], capture_output=True, text=True, errors="replace", timeout=120)
    return p.returncode, p.stdout, p.stderr


def fails(*parts, target=str(TARGET), flags=()):
    """It ends with status 1 and a sentence with those parts."""
    status, out, err = run("--target", target, *ARGS, *flags)
    equal((status, out), (1, ""), err)
    for part in parts:
        check(part in err, f"{part!r}: {err}")
    return err


@test()
def flags():
    status, out, err = run("--help")
    equal((status, err), (0, ""))
    for flag in ("--target", "--listen", "--max-sessions", "--max-queue", "--max-message-bytes", "--drain-timeout", "--kv-bytes"):
        check(flag in out, f"{flag} in --help")
    equal(run("--version")[0], 0)
    for args in ((), ("--nope",), ("--target",), ("--target", "x", "--threads", "many"), ("--target", "x", "--kv-bytes", "12Q"),
                 ("--target", "x", "--max-sessions", "0"), ("--target", "x", "--isa", "mmx"), ("--target", "x", "--listen", "8311")):
        status, out, err = run(*args)
        equal((status, out), (2, ""), f"{args}")
        check(err.startswith("outriderd: ") and err.count("\n") == 1, err)
    status, out, err = run("--target", "/nowhere")
    equal(status, 1)
    check("/nowhere" in err, err)
    status, out, err = run("--target", str(TARGET), "--ready-fd", "99")
    equal(status, 2)
    check("--ready-fd 99 is not open" in err, err)
    for bad in ("x" * 300, os.fsdecode(b"m\xff")):
        fails("--model-name takes at most 255 bytes of UTF-8", flags=("--model-name", bad))


@test(real=True)
def devices_that_are_not_there():
    for word in ("gpu", "cuda", "cuda:", "cuda:x", "cuda:-1"):
        status, out, err = run("--target", str(TARGET), "--device", word)
        equal((status, out), (2, ""), err)
        check(f"--device must be auto, cpu or cuda:N, not '{word}'" in err, err)
    fails("--device cpu", flags=("--device", "cuda:99"))


@test()
def addresses_that_cannot_be_had():
    fails("no such file or directory; make its directory first", flags=("--listen", "unix:/nowhere/at/all/socket"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = "127.0.0.1:%d" % taken.getsockname()[1]
        err = fails(f"cannot listen on {where}: address already in use; another process has that port", flags=("--listen", where))
    check("in memory" not in err, f"weights were packed before the port was looked at: {err}")
    with tempfile.NamedTemporaryFile() as file:
        fails("or it is a file", flags=("--listen", f"unix:{file.name}"))
        check(os.path.exists(file.name))
    fails("no address of this machine", flags=("--listen", "192.0.2.1:0"))
    fails("such as 127.0.0.1", flags=("--listen", "nobody.invalid:0"))


@test(real=True)
def models_that_cannot_be_served():
    fails("weights take", "this machine has", "choose a smaller model", target="synth:32b:layers=1024", flags=("--listen", "127.0.0.1:0"))
    fails("the draft synth:0.6b:layers=1 cannot guess for the target: a draft must share its tokenizer, and the tokenizers differ: id ",
          flags=("--draft", "synth:0.6b:layers=1", "--listen", "127.0.0.1:0"))
