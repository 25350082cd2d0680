"""HTTP/2 by hand, for what a well-behaved client never sends."""
import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
ENHANCE_YOUR_CALM, CANCEL = 11, 8


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def hpack(headers):
    """Every field literal, never indexed, no Huffman code (RFC 7541 section 6.2.2)."""

    def text(s):
        s = s if isinstance(s, bytes) else s.encode()
        n, out = len(s), b""
        if n < 127:
            return bytes([n]) + s
        out, n = bytes([127]), n - 127
        while n >= 128:
            out += bytes([n % 128 + 128])
            n //= 128
        return out + bytes([n]) + s

    return b"".join(b"\0" + text(k) + text(v) for k, v in headers)


def request_headers(method="/outrider.v1.Inference/Generate", **more):
    fixed = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "test", "te": "trailers",
             "content-type": "application/grpc"}
    fixed.update({k.replace("_", "-"): v for k, v in more.items()})
    return list(fixed.items())


def message(m):
    body = m if isinstance(m, bytes) else m.SerializeToString()
    return b"\0" + struct.pack(">I", len(body)) + body


class Connection:
    def __init__(self, sock, settings=b"", greet=True):
        self.sock = sock
        self.buf = b""
        self.sock.settimeout(20)
        if greet:
            self.send(PREFACE + frame(SETTINGS, payload=settings))

    def send(self, data):
        self.sock.sendall(data)

    def open(self, stream, headers=None, body=None, end=True):
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if body is None and end else 0), stream,
                        hpack(headers or request_headers())))
        if body is not None:
            self.send(frame(DATA, END_STREAM if end else 0, stream, body))

    def recv(self, timeout=20):
        """The next frame: (kind, flags, stream, payload), or None at the end of the connection."""
        end = time.time() + timeout
        while len(self.buf) < 9 or len(self.buf) < 9 + int.from_bytes(self.buf[:3], "big"):
            self.sock.settimeout(max(0.001, end - time.time()))
            try:
                got = self.sock.recv(65536)
            except (ConnectionResetError, BrokenPipeError):
                got = b""
            if not got:
                return None
            self.buf += got
        n = int.from_bytes(self.buf[:3], "big")
        kind, flags, stream = self.buf[3], self.buf[4], int.from_bytes(self.buf[5:9], "big") & 0x7fffffff
        payload, self.buf = self.buf[9:9 + n], self.buf[9 + n:]
        if kind == SETTINGS and not flags & ACK:
            try:
                self.send(frame(SETTINGS, ACK))
            except OSError:
                pass
        return kind, flags, stream, payload

    def until(self, wanted, timeout=20):
        """Frames up to the first for which wanted(kind, flags, stream, payload) holds, or to the end of the connection."""
        frames = []
        end = time.time() + timeout
        while True:
            try:
                f = self.recv(max(0.001, end - time.time()))
            except socket.timeout:
                raise AssertionError(f"no such frame within {timeout} s; got {[(x[0], x[1], x[2]) for x in frames][-10:]}")
            if f is None:
                return frames
            frames.append(f)
            if wanted(*f):
                return frames

    def window(self, stream, n):
        self.send(frame(WINDOW, 0, stream, struct.pack(">I", n)))

    def close(self):
        self.sock.close()


def goaway_code(frames):
    """The error code of the last GOAWAY, or None."""
    codes = [int.from_bytes(f[3][4:8], "big") for f in frames if f[0] == GOAWAY]
    return codes[-1] if codes else None


def framed(frames, stream):
    """(compressed, bytes) of the gRPC messages in a stream's DATA frames."""
    data = b"".join(f[3] for f in frames if f[0] == DATA and f[2] == stream)
    out, at = [], 0
    while len(data) >= at + 5:
        n = int.from_bytes(data[at + 1:at + 5], "big")
        out.append((data[at], data[at + 5:at + 5 + n]))
        at += 5 + n
    return out


def messages(frames, stream):
    """The gRPC messages in a stream's DATA frames."""
    return [body for _, body in framed(frames, stream)]
