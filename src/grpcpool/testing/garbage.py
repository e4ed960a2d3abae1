"""Bytes that no HTTP/2 server would send, or none that means well."""

from __future__ import annotations

import random
import struct

__all__ = ["NOT_HTTP2", "frame", "garbage"]

# What is behind many a port that was thought to be a gRPC server's.
NOT_HTTP2 = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 0x1, 0x4

# All that is spared a client: a GOAWAY with an error code above these makes grpcio (1.85) abort the process.
GOAWAY_ERRORS = range(13)
# All kinds of frame, and some that there are not, but that one.
KINDS = tuple(kind for kind in range(13) if kind != GOAWAY)

# HPACK without a table: `:status: 200`, and literal fields that are not indexed.
STATUS_200 = b"\x88"


def literal(name: str, value: bytes) -> bytes:
    """Return a header field; name and value shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """Return an HTTP/2 frame; its length may be a lie."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def garbage(rng: random.Random, stream: int) -> bytes:
    """Return what a client gets that waits for an answer on this stream (0: for the first bytes of a connection)."""
    return b"".join(_piece(rng, stream) for _ in range(rng.randint(1, 4)))


def _piece(rng: random.Random, stream: int) -> bytes:
    noise = rng.randbytes(rng.choice((0, 1, 4, 8, 16, 200)))
    # Ours, the connection, a neighbour, one that the client cannot have opened, anything.
    somewhere = rng.choice((stream, 0, stream + 2, stream + 1, rng.getrandbits(31)))
    headers = STATUS_200 + literal("content-type", b"application/grpc")
    trailers = literal("grpc-status", rng.choice((b"0", b"13", b"99", b"-1", b"x", b"")))
    pieces = (
        noise,
        frame(rng.choice(KINDS), rng.getrandbits(8), somewhere, noise),
        frame(rng.choice(KINDS), rng.getrandbits(8), somewhere, noise, rng.getrandbits(24)),
        frame(HEADERS, END_HEADERS, somewhere, headers) + frame(DATA, 0, somewhere, noise),
        frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, noise),
        frame(HEADERS, END_HEADERS, stream, headers) + frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers),
        frame(HEADERS, END_HEADERS | END_STREAM, stream, headers + trailers),
        frame(HEADERS, END_HEADERS, stream, noise),
        frame(HEADERS, rng.choice((0, END_STREAM)), stream, headers[: rng.randrange(len(headers))]),
        frame(DATA, 0, stream, struct.pack(">BI", rng.getrandbits(8), rng.getrandbits(32)) + noise),
        frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", rng.randint(0, 8), rng.getrandbits(32)) for _ in range(3))),
        frame(WINDOW_UPDATE, 0, somewhere, struct.pack(">I", rng.choice((0, 1, 2**31 - 1)))),
        frame(RST_STREAM, 0, somewhere, struct.pack(">I", rng.choice((*range(15), rng.getrandbits(32))))),
        frame(PING, rng.randint(0, 1), rng.choice((0, stream)), rng.randbytes(8)) * rng.choice((1, 50)),
        frame(GOAWAY, 0, 0, struct.pack(">II", rng.getrandbits(31), rng.choice(GOAWAY_ERRORS)) + noise),
    )
    return rng.choice(pieces)
