"""Nothing that an agent started outlives it, not even after kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from remoting_bus._process import reaper

PROGRAM = """
import os, sys, anyio
from remoting_bus._process.groups import Groups

async def main():
    groups = Groups()
    process = await anyio.open_process(
        "sleep 300 & echo $! >&2; exec sleep 300", start_new_session=True, stderr=None,
    )
    await groups.started(process.pid)
    print(process.pid, flush=True)
    await anyio.sleep(300)

anyio.run(main)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait up to ten seconds."""
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def running(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_killed_agent_leaves_no_process() -> None:
    """The reaper ends the group when the agent's end of the pipe closes."""
    agent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert agent.stdout is not None
    assert agent.stderr is not None
    with agent.stdout, agent.stderr:
        leader = int(agent.stdout.readline())
        child = int(agent.stderr.readline())
        assert running(leader)
        assert running(child)
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        wait_until(lambda: not running(leader))
        wait_until(lambda: not running(child))


def test_a_group_that_ignores_sigterm_is_killed() -> None:
    """After the grace comes SIGKILL."""
    child = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"],
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"ready\n"
        reaper.end({child.pid})
        assert child.wait() == -signal.SIGKILL


def test_a_group_that_is_no_more_is_passed_over() -> None:
    """Its number tells nothing."""
    child = subprocess.Popen(["true"], start_new_session=True)
    child.wait()
    assert not reaper.send(child.pid, 0)
    reaper.end({child.pid})
