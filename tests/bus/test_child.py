"""A child process under its keeper: it runs, it ends, and it never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import psutil
import pytest

from remoting_bus.bus.child import open_child

pytestmark = pytest.mark.anyio

LIMIT = 20.0

STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


async def wait_gone(pid: int) -> None:
    """Until a process is gone, or is one that nobody has waited for yet."""
    with anyio.fail_after(LIMIT):
        while psutil.pid_exists(pid):
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
            await anyio.sleep(0.01)


async def wait_text(path: Path, text: str) -> None:
    with anyio.fail_after(LIMIT):
        while text not in await anyio.Path(path).read_text():  # noqa: ASYNC110 - a file
            await anyio.sleep(0.01)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)]
)
async def test_its_status_is_the_commands(
    tmp_path: Path, script: str, status: int
) -> None:
    """The exit status, or 128 + the signal; what it said is in the log."""
    log = tmp_path / "log"
    command = ["sh", "-c", f"echo said; echo wrong >&2; {script}"]
    async with open_child(command, log=log) as child:
        with anyio.fail_after(LIMIT):
            assert await child.wait() == status
        assert not child.running
    assert sorted(log.read_text().split()) == ["said", "wrong"]


async def test_it_ends_when_left(tmp_path: Path) -> None:
    """Leaving ends it, and its whole process group."""
    script = "sleep 600 & echo $!; wait"
    async with open_child(["sh", "-c", script], log=tmp_path / "log") as child:
        assert psutil.pid_exists(child.pid)
        await wait_text(tmp_path / "log", "\n")
        grandchild = int((tmp_path / "log").read_text())
    await wait_gone(child.pid)
    await wait_gone(grandchild)


async def test_it_is_killed_after_its_grace(tmp_path: Path) -> None:
    """One that does not listen to SIGTERM is killed; also one that is stopped."""
    command = [sys.executable, "-c", STUBBORN]
    log = tmp_path / "log"
    async with open_child(command, log=log, grace=0.2) as child:
        await wait_text(log, "ready")
        assert child.running
        with anyio.fail_after(LIMIT):
            assert await child.end() == 128 + signal.SIGKILL
    async with open_child(["sleep", "600"], log=log, grace=0.2) as child:
        os.kill(child.pid, signal.SIGSTOP)
    await wait_gone(child.pid)


async def test_a_command_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """It names the command and says why."""
    missing = tmp_path / "missing"
    with pytest.raises(OSError, match=r"missing.*No such file"):
        async with open_child([missing], log=tmp_path / "log"):
            pass


async def test_a_cancelled_parent_leaves_nothing(tmp_path: Path) -> None:
    """Cancelled inside: the child is ended all the same."""
    pid = 0
    with anyio.CancelScope() as scope:
        async with open_child(["sleep", "600"], log=tmp_path / "log") as child:
            pid = child.pid
            scope.cancel()
            await anyio.sleep_forever()
    await wait_gone(pid)


PARENT = """
import anyio, os, sys
from pathlib import Path
from remoting_bus.bus.child import open_child

async def main():
    async with open_child(["sleep", "600"], log=Path(sys.argv[1])) as child:
        if sys.argv[2] == "fork" and os.fork() == 0:
            import time; time.sleep(600)  # holds the parent's end of the pipe
        os.write(1, f"{child.pid} {child._process.pid}".encode())
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.parametrize("how", ["killed", "fork", "keeper"])
async def test_it_ends_however_its_parent_ends(tmp_path: Path, how: str) -> None:
    """kill -9 of the parent, with the pipe held by a fork of it, and of the keeper."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log"), how]
    async with await anyio.open_process(
        command, env=environment, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        with anyio.fail_after(LIMIT):
            child, keeper = map(int, (await parent.stdout.receive()).split())
        forks = [p for p in psutil.Process(parent.pid).children() if p.pid != keeper]
        assert len(forks) == (how == "fork")
        os.kill(keeper if how == "keeper" else parent.pid, signal.SIGKILL)
        await wait_gone(child)
        await wait_gone(keeper)
        for fork in forks:
            fork.kill()
        if how == "keeper":
            parent.kill()
