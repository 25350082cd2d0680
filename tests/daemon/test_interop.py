#!/usr/bin/python3
"""gRPC's interop cases for servers (grpc/grpc doc/interop-test-descriptions.md) against the TestService of the test build, with a real
grpcio client.  What such a client does not show, whether a message came compressed, is looked at in the bytes."""
import os
import threading
import zlib

import wire_raw as raw
from stubs import testing_pb as tp
from stubs import testing_rpc
from wire_harness import Daemon, check, equal, grpc, main, refused, test

Code = grpc.StatusCode
GZIP = grpc.Compression.Gzip


def stub(d, **kw):
    return testing_rpc.TestServiceStub(d.channel(**kw))


def payload(n):
    return tp.Payload(body=bytes(n))


def outputs(*sizes, interval_us=0):
    return [tp.ResponseParameters(size=n, interval_us=interval_us) for n in sizes]


def sizes(stream):
    return [len(m.payload.body) for m in stream]


@test()
def empty_unary():
    with Daemon() as d:
        equal(stub(d).EmptyCall(tp.Empty()), tp.Empty())


@test()
def large_unary():
    with Daemon() as d:
        got = stub(d).UnaryCall(tp.SimpleRequest(response_size=314159, payload=payload(271828)))
        equal(got.payload.body, bytes(314159))


@test()
def client_streaming():
    with Daemon() as d:
        got = stub(d).StreamingInputCall(iter(tp.StreamingInputCallRequest(payload=payload(n)) for n in (27182, 8, 1828, 45904)))
        equal(got.aggregated_payload_size, 74922)
        equal(stub(d).StreamingInputCall(iter([])).aggregated_payload_size, 0)


@test()
def server_streaming():
    with Daemon() as d:
        request = tp.StreamingOutputCallRequest(response_parameters=outputs(31415, 9, 2653, 58979))
        equal(sizes(stub(d).StreamingOutputCall(request)), [31415, 9, 2653, 58979])


class Turns:
    """Requests that are given out one by one, each when the answer to the last has come."""

    def __init__(self, requests):
        self.requests, self.go = list(requests), threading.Semaphore(1)

    def __iter__(self):
        for r in self.requests:
            self.go.acquire()
            yield r
        self.go.acquire()


@test()
def ping_pong():
    with Daemon() as d:
        turns = Turns(tp.StreamingOutputCallRequest(response_parameters=outputs(n), payload=payload(m))
                      for n, m in ((31415, 27182), (9, 8), (2653, 1828), (58979, 45904)))
        got = []
        for m in stub(d).FullDuplexCall(iter(turns)):
            got.append(len(m.payload.body))
            turns.go.release()
        equal(got, [31415, 9, 2653, 58979])


@test()
def empty_stream():
    with Daemon() as d:
        equal(list(stub(d).FullDuplexCall(iter([]))), [])


@test()
def client_compressed_unary():
    with Daemon() as d:
        s = stub(d)
        request = tp.SimpleRequest(expect_compressed=tp.BoolValue(value=True), response_size=314159, payload=payload(271828))
        refused(Code.INVALID_ARGUMENT, s.UnaryCall, request)
        for how in GZIP, grpc.Compression.Deflate:
            equal(len(s.UnaryCall(request, compression=how).payload.body), 314159)
        request.expect_compressed.value = False
        equal(len(s.UnaryCall(request).payload.body), 314159)
        refused(Code.INVALID_ARGUMENT, s.UnaryCall, request, compression=GZIP)


@test()
def client_compressed_streaming():
    """grpcio leaves a message as it is where compressing makes it longer: random bytes are the one that is not compressed."""
    with Daemon() as d:
        def requests(first):
            yield tp.StreamingInputCallRequest(expect_compressed=tp.BoolValue(value=True), payload=payload(first))
            yield tp.StreamingInputCallRequest(expect_compressed=tp.BoolValue(value=False), payload=tp.Payload(body=os.urandom(45904)))

        s = stub(d)
        equal(s.StreamingInputCall(requests(27182), compression=GZIP).aggregated_payload_size, 73086)
        refused(Code.INVALID_ARGUMENT, s.StreamingInputCall, requests(27182))


def flags(d, method, request, **headers):
    """(compressed, bytes) of every message of the answer."""
    c = raw.Connection(d.connect())
    c.window(0, 1 << 20)
    c.open(1, raw.request_headers(f"/grpc.testing.TestService/{method}", **headers), raw.message(request))
    c.window(1, 1 << 20)
    frames = c.until(lambda kind, flag, stream, p: kind == raw.HEADERS and flag & raw.END_STREAM)
    c.close()
    return raw.framed(frames, 1)


@test()
def server_compressed_unary():
    with Daemon() as d:
        s = stub(d)
        for on in True, False:
            request = tp.SimpleRequest(response_compressed=tp.BoolValue(value=on), response_size=314159, payload=payload(271828))
            equal(s.UnaryCall(request).payload.body, bytes(314159))
            request.payload.body = b""
            for name, bits in ("gzip", 31), ("deflate", 15):
                [(flag, body)] = flags(d, "UnaryCall", request, grpc_accept_encoding=f"identity, {name}")
                equal(flag, int(on))
                body = zlib.decompress(body, bits) if on else body
                equal(len(tp.SimpleResponse.FromString(body).payload.body), 314159)
            [(flag, _)] = flags(d, "UnaryCall", request)
            equal(flag, 0, "a client that names no encoding gets none")


@test()
def server_compressed_streaming():
    with Daemon() as d:
        request = tp.StreamingOutputCallRequest(response_parameters=outputs(31415, 92653))
        for p, on in zip(request.response_parameters, (True, False)):
            p.compressed.value = on
        equal(sizes(stub(d).StreamingOutputCall(request)), [31415, 92653])
        got = flags(d, "StreamingOutputCall", request, grpc_accept_encoding="gzip")
        equal([f for f, _ in got], [1, 0])


@test()
def custom_metadata():
    with Daemon() as d:
        s = stub(d)
        sent = (("x-grpc-test-echo-initial", "test_initial_metadata_value"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"))
        request = tp.SimpleRequest(response_size=314159, payload=payload(271828))
        _, call = s.UnaryCall.with_call(request, metadata=sent)
        check(sent[0] in [tuple(m) for m in call.initial_metadata()])
        check(sent[1] in [tuple(m) for m in call.trailing_metadata()])
        call = s.FullDuplexCall(iter([tp.StreamingOutputCallRequest(response_parameters=outputs(314159))]), metadata=sent)
        equal(sizes(call), [314159])
        check(sent[0] in [tuple(m) for m in call.initial_metadata()])
        check(sent[1] in [tuple(m) for m in call.trailing_metadata()])


@test()
def status_code_and_message():
    with Daemon() as d:
        status = tp.EchoStatus(code=2, message="test status message")
        s = stub(d)
        equal(refused(Code.UNKNOWN, s.UnaryCall, tp.SimpleRequest(response_status=status)), status.message)
        equal(refused(Code.UNKNOWN, s.FullDuplexCall, iter([tp.StreamingOutputCallRequest(response_status=status)])), status.message)


@test()
def special_status_message():
    with Daemon() as d:
        said = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
        equal(refused(Code.UNKNOWN, stub(d).UnaryCall, tp.SimpleRequest(response_status=tp.EchoStatus(code=2, message=said))), said)


@test()
def unimplemented_method():
    with Daemon() as d:
        refused(Code.UNIMPLEMENTED, stub(d).UnimplementedCall, tp.Empty())


@test()
def unimplemented_service():
    with Daemon() as d:
        refused(Code.UNIMPLEMENTED, testing_rpc.UnimplementedServiceStub(d.channel()).UnimplementedCall, tp.Empty())


@test()
def cancel_after_begin():
    with Daemon() as d:
        turns = Turns([])
        turns.go.acquire()
        s = stub(d)
        call = s.StreamingInputCall.future(iter(turns))
        call.cancel()
        equal(call.code(), Code.CANCELLED)
        turns.go.release()
        equal(s.EmptyCall(tp.Empty()), tp.Empty())


@test()
def cancel_after_first_response():
    with Daemon() as d:
        s = stub(d)
        turns = Turns([tp.StreamingOutputCallRequest(response_parameters=outputs(31415), payload=payload(27182))])
        call = s.FullDuplexCall(iter(turns))
        equal(len(next(call).payload.body), 31415)
        call.cancel()
        equal(refused(Code.CANCELLED, lambda: call) is not None, True)
        turns.go.release()
        equal(s.EmptyCall(tp.Empty()), tp.Empty())


@test()
def timeout_on_sleeping_server():
    with Daemon() as d:
        turns = Turns([tp.StreamingOutputCallRequest(response_parameters=outputs(31415, interval_us=2000000), payload=payload(27182))])
        s = stub(d)
        refused(Code.DEADLINE_EXCEEDED, s.FullDuplexCall, iter(turns), timeout=0.001)
        turns.go.release()
        s.EmptyCall(tp.Empty())  # now the connection stands, and the server sleeps for real
        request = tp.StreamingOutputCallRequest(response_parameters=outputs(31415, interval_us=2000000))
        refused(Code.DEADLINE_EXCEEDED, s.StreamingOutputCall, request, timeout=0.1)


if __name__ == "__main__":
    main(fake=True)
