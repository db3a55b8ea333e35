"""Processes that run cases. Ctrl-C is told to all of a terminal's processes, and these must not hear it: one that is
still importing would say so in a traceback. So whoever is interrupted ends them. Whoever is killed cannot, and each
waits for its next case on a pipe that it holds open itself: they look after whether it lives."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from types import TracebackType
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Processes(ProcessPoolExecutor):
    """New ones, that share nothing with this one; left by an exception they are killed, whatever they do."""

    def __init__(self, jobs: int | None) -> None:
        """So many, or one a processor."""
        super().__init__(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent)

    def submit(self, work: Callable[Given, Result], /, *args: Given.args, **named: Given.kwargs) -> Future[Result]:
        """As any executor's. It may start a process, which inherits what is blocked meanwhile (POSIX, `exec`)."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(work, *args, **named)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            for child in active_children():
                child.kill()
        super().__exit__(kind, error, at)


def _end_with_parent() -> None:
    Thread(target=_wait_for_its_end, daemon=True).start()


def _wait_for_its_end() -> None:
    parent = parent_process()
    assert parent is not None, "a process of a pool has one"
    parent.join()
    os._exit(1)
