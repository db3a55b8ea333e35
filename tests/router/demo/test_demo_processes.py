"""No process outlives whoever wanted it: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from router.demo.exchange import ExchangeError, connect, exchange
from router.demo.processes import Child, ChildError, Lines

pytestmark = pytest.mark.slow

READY_SECONDS = 60.0
BACKEND = [sys.executable, "-m", "router.demo.backend", "--region", "fra", "--until-stdin-closes", "--listen"]


async def start(log: Path, listen: str = "127.1.0.1:0") -> tuple[Child, str]:
    child = await Child.start("fra", [*BACKEND, listen], log)
    return child, (await child.ready(READY_SECONDS))["listen"]


async def ask(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    async with await connect(host, int(port)) as stream:
        return (await exchange(stream, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")).headers["x-region"]


def exists(pid: int) -> bool:
    """Whether the process runs; one that ended and waits to be reaped does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_gone(pid: int) -> None:
    """The kernel's word for it, as nobody here is its parent."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def test_a_killed_backend_takes_its_port_again_and_leaves_when_told(tmp_path: Path) -> None:
    child, listen = await start(tmp_path / "log")
    assert await ask(listen) == "fra"
    child.kill()
    await child.ended()
    with pytest.raises(ExchangeError, match="refused"):
        await ask(listen)

    again, same = await start(tmp_path / "log", listen)
    assert same == listen
    assert await ask(listen) == "fra"
    await again.stop()
    await again.stop()
    assert not exists(again.pid)
    await child.stop()


async def test_the_end_that_nobody_asked_for_is_told_with_the_log(tmp_path: Path) -> None:
    child, _ = await start(tmp_path / "log")
    (tmp_path / "log").write_text("the reason\n")
    os.kill(child.pid, signal.SIGTERM)
    with pytest.raises(ChildError, match=r"fra was ended by SIGTERM\. The end of its log:\n  the reason"):
        await child.ended()
    await child.stop()


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("import sys; sys.exit('no such luck')", "x ended with status 1. The end of its log:\n  no such luck"),
        ("print('hello', flush=True)", "x ended with status 0. It wrote nothing to its log."),
    ],
)
async def test_a_process_that_never_becomes_ready(tmp_path: Path, code: str, complaint: str) -> None:
    child = await Child.start("x", [sys.executable, "-c", code], tmp_path / "log")
    with pytest.raises(ChildError) as caught:
        await child.ready(READY_SECONDS)
    assert str(caught.value) == complaint
    await child.stop()


async def test_a_process_that_hangs_before_it_is_ready_is_given_up_and_ends(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    child = await Child.start("x", [sys.executable, "-c", stubborn], tmp_path / "log")
    with pytest.raises(ChildError, match=r"x was not ready after 0\.2 s"):
        await child.ready(0.2)
    child.kill()
    await child.stop()
    assert not exists(child.pid)


async def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="x cannot be started: /nonexistent: No such file"):
        await Child.start("x", ["/nonexistent"], tmp_path / "log")


async def test_children_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = (
        "import sys, trio\n"
        "from pathlib import Path\n"
        "from router.demo.processes import Child\n"
        "async def main():\n"
        "    child = await Child.start('fra', sys.argv[2:], Path(sys.argv[1]))\n"
        "    await child.ready(60)\n"
        "    print(child.pid, flush=True)\n"
        "    await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", parent, str(tmp_path / "log"), *BACKEND, "127.1.0.1:0"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    async with process.stdout:
        line = await Lines(process.stdout).next()
    assert line is not None
    assert exists(int(line))
    process.kill()
    await process.wait()
    await until_gone(int(line))
