#!/usr/bin/python3
"""A daemon with nothing to do takes no processor time: before any request, after a burst, and with open idle connections.

What is counted is utime + stime of /proc/PID/stat, in ticks of 10 ms, and beside it what every thread ran by /proc/PID/task/*/schedstat,
in ns: the kernel's own count is finer than the bar.  Usage and environment: see wire_harness.py."""
import concurrent.futures
import os
import pathlib
import time

from wire_harness import Daemon, answer, check, health_pb, main, test, text_request

IDLE_SECONDS = 10 if int(os.environ.get("GATE_SCALE", 1)) == 1 else 2
BAR_MS = 10
SETTLE_SECONDS = 1  # the burst's last frames, acknowledged settings, closed streams
BURST, IDLE_CONNECTIONS = 64, 16


def ran_ms(d):
    return sum(int(p.read_text().split()[0]) for p in pathlib.Path(f"/proc/{d.pid}/task").glob("*/schedstat")) / 1e6


def check_idle(d, when):
    time.sleep(SETTLE_SECONDS)
    ticks, ran = d.cpu_ticks(), ran_ms(d)
    time.sleep(IDLE_SECONDS)
    ticks, ran = d.cpu_ticks() - ticks, ran_ms(d) - ran
    print(f"  {when}: {10 * ticks} ms by ticks, {ran:.2f} ms by the scheduler, in {IDLE_SECONDS} s")
    check(10 * ticks <= BAR_MS and ran <= BAR_MS, f"{when}: {10 * ticks} ms of utime + stime, {ran:.2f} ms run, in {IDLE_SECONDS} s")


def burst(d, n=BURST):
    stub, ran = d.stub(), ran_ms(d)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: answer(stub.Generate(text_request(f"What is {i} + {i}?", max_tokens=40))), range(n)))
    check(ran_ms(d) - ran > 1, "a burst of answers took no time: the counters do not count")


@test()
def idle_from_the_start():
    with Daemon("--threads", 2) as d:
        check_idle(d, "never asked")


@test()
def idle_after_a_burst():
    with Daemon("--threads", 2) as d:
        burst(d)
        while d.channels:
            d.channels.pop().close()
        check_idle(d, f"after {BURST} answers, no connection")


@test()
def idle_with_open_connections():
    with Daemon("--threads", 2) as d:
        burst(d)
        watch = d.health().Watch(health_pb.HealthCheckRequest())
        next(watch)
        for _ in range(IDLE_CONNECTIONS):
            answer(d.stub().Generate(text_request(max_tokens=2)))
        silent = [d.connect() for _ in range(IDLE_CONNECTIONS)]  # that never say a word
        check_idle(d, f"after {BURST} answers, {IDLE_CONNECTIONS} idle connections, {IDLE_CONNECTIONS} silent ones and a watch")
        for s in silent:
            s.close()


main(fake=False)
