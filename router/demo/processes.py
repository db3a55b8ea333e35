"""A process and the one that started it: how each of the two makes sure that it does not outlive its purpose.

The parent keeps the write end of every child's standard input and writes nothing to it. A child leaves when that
closes, which the kernel does for us however the parent ends, SIGKILL included. Children run in sessions of their own,
so that a terminal's Ctrl-C reaches only the parent, which then stops them in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import trio

LINE_BYTES_MAX = 4 * 1024 * 1024
LOG_TAIL_LINES = 15
LOG_TAIL_BYTES = 8_192
STOP_GRACE_SECONDS = 8.0
"""For a child to leave after its standard input closed (a node drains for up to 5 s), and half of it after SIGTERM."""


class ChildError(Exception):
    """A process did not start, or ended by itself; the message ends with the tail of its log. It is not running."""


async def until_stdin_closes(scope: trio.CancelScope) -> None:
    """For a child: cancels `scope` when standard input ends, whatever it is (pipe, terminal, file)."""
    while True:
        try:
            await trio.lowlevel.wait_readable(0)
        except PermissionError:
            await trio.lowlevel.checkpoint()  # epoll refuses regular files, which can always be read
        try:
            if not os.read(0, 4_096):
                break
        except BlockingIOError:
            continue
        except OSError:
            break
    scope.cancel()


class Lines:
    """The lines of a stream, without their ends."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> bytes | None:
        """The next line, None at the end of the stream; a last line without its end is lost, as half a message."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > LINE_BYTES_MAX:
                raise ChildError(f"a line is longer than {LINE_BYTES_MAX} bytes")
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


class Child:
    """A process that was started; `start` is the way to make one."""

    def __init__(self, name: str, process: trio.Process, log: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.name = name
        self.leaving = False
        """Its end was asked for."""
        self._process = process
        self._log = log
        self._stdin = process.stdin
        self.lines = Lines(process.stdout)

    @classmethod
    async def start(cls, name: str, arguments: Sequence[str], log: Path) -> Child:
        """Runs a command; its standard error goes to the end of `log`. Raises `ChildError`."""
        with log.open("ab") as standard_error:
            try:
                process = await trio.lowlevel.open_process(
                    list(arguments),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=standard_error,
                    start_new_session=True,
                )
            except OSError as error:
                raise ChildError(f"{name} cannot be started: {arguments[0]}: {error.strerror}") from error
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def tell(self, data: bytes) -> None:
        """Writes to its standard input, which stays open."""
        await self._stdin.send_all(data)

    async def ready(self, timeout_seconds: float) -> dict[str, str]:
        """Waits for its line `ready name=value …` and returns the values. Raises `ChildError`, also for its end."""
        with trio.move_on_after(timeout_seconds):
            while (line := await self.lines.next()) is not None:
                words = line.decode("utf-8", "replace").split()
                if words[:1] == ["ready"]:
                    return dict(pair.partition("=")[::2] for pair in words[1:])
            raise ChildError(await self.obituary())
        raise ChildError(f"{self.name} was not ready after {timeout_seconds:g} s.{self._tail()}")

    async def ended(self) -> None:
        """Follows the process to its end, its output to the log; raises `ChildError` if nobody asked for the end."""
        with self._log.open("ab") as log:
            while (line := await self.lines.next()) is not None:
                log.write(line + b"\n")
        await self._process.wait()
        if not self.leaving:
            raise ChildError(await self.obituary())

    async def obituary(self) -> str:
        """How it ended, with the tail of its log; waits for the end, which must be near."""
        with trio.move_on_after(STOP_GRACE_SECONDS):
            await self._process.wait()
        status = self._process.returncode
        if status is None:
            how = "closed its output and hangs"
        elif status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        else:
            how = f"ended with status {status}"
        return f"{self.name} {how}.{self._tail()}"

    def _tail(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - LOG_TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
        if not lines:
            return " It wrote nothing to its log."
        return " The end of its log:\n" + "\n".join(f"  {line}" for line in lines)

    def kill(self) -> None:
        """SIGKILL: no warning, no farewell, every connection cut."""
        self.leaving = True
        self._process.kill()

    async def stop(self) -> None:
        """Asks it to leave and returns when it has, by force if need be. Safe to call in any state, and again."""
        self.leaving = True
        with trio.CancelScope(shield=True):
            await self._stdin.aclose()
            for insist, grace in (
                (self._process.terminate, STOP_GRACE_SECONDS),
                (self._process.kill, STOP_GRACE_SECONDS / 2),
            ):
                with trio.move_on_after(grace):
                    await self._process.wait()
                    return
                insist()
            await self._process.wait()
