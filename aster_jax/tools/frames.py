"""Length-capped JSON frames: the only language spoken between the processes.

A frame is four bytes of big-endian length and that many bytes of JSON holding one object.
The length is checked before anything is allocated, and nothing is ever unpickled, so the
worst a hostile peer can do is to be recognised as one.
"""

import json
import struct

CAP_BYTES = 4 << 20
# One read of a stream. From 128 KiB on, the allocator maps and unmaps memory for every read.
READ_BYTES = 1 << 16
HEADER = struct.Struct(">I")
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_decode = json.JSONDecoder().decode


class FrameError(Exception):
    """The peer sent bytes that are no frame; the stream cannot be trusted any more."""


def pack(message: dict) -> bytes:
    """One frame. Raises FrameError above the cap."""
    body = _encode(message).encode("ascii")
    if len(body) > CAP_BYTES:
        raise FrameError(f"frame of {len(body)} bytes is over the cap of {CAP_BYTES}")
    return HEADER.pack(len(body)) + body


class Decoder:
    """Reassembles frames from a byte stream; holds at most one incomplete frame."""

    def __init__(self, cap_bytes: int = CAP_BYTES):
        self.cap_bytes = cap_bytes
        self.buffer = bytearray()

    def feed(self, data: bytes) -> list[dict]:
        """The frames completed by `data`. Raises FrameError on anything malformed."""
        self.buffer += data
        found = []
        while len(self.buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self.buffer)
            if length > self.cap_bytes:
                raise FrameError(f"announced {length} bytes, cap {self.cap_bytes}")
            if len(self.buffer) < HEADER.size + length:
                break
            body = self.buffer[HEADER.size : HEADER.size + length]
            del self.buffer[: HEADER.size + length]
            try:
                message = _decode(body.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise FrameError(f"not JSON: {error}") from None
            if not isinstance(message, dict):
                raise FrameError(f"a {type(message).__name__}, not an object")
            found.append(message)
        return found
