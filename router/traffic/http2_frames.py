"""An HTTP/2 connection's bytes, cut into frames (RFC 9113 part 4). Pure.

h2 cuts for itself, but judges a frame's length only when all of it is there: up to 16 MiB, for every connection. So
nothing reaches it but whole frames of a length that was announced.
"""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
FRAME_BYTES_MAX: Final = 16_384
"""SETTINGS_MAX_FRAME_SIZE's initial value, which we leave."""
GOAWAY: Final = 0x7


class FrameError(Exception):
    """These bytes are no frames; the text says why, in few words."""


class Frames:
    """Bytes in, whole frames out; keeps less than one."""

    def __init__(self) -> None:
        self._rest = b""
        self._greeted = False

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """The whole frames, GOAWAY left out (h2 would end all streams at one), and whether there was one.

        Raises `FrameError` as soon as no frame can follow.
        """
        data = self._rest + data
        at, left = 0, False
        whole: list[bytes] = []
        if not self._greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise FrameError("no preface")
            if len(data) < len(PREFACE):
                self._rest = data
                return b"", False
            self._greeted = True
            at = len(PREFACE)
            whole.append(PREFACE)
        while len(data) - at >= HEAD_BYTES:
            length = int.from_bytes(data[at : at + 3], "big")
            if length > FRAME_BYTES_MAX:
                raise FrameError("frame too large")
            end = at + HEAD_BYTES + length
            if len(data) < end:
                break
            if data[at + 3] == GOAWAY:
                left = True
            else:
                whole.append(data[at:end])
            at = end
        self._rest = data[at:]
        return b"".join(whole), left
