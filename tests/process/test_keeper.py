"""Nothing that an agent started outlives it, however it goes."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import psutil
import pytest

import remoting_bus as rb
from remoting_bus._process.child import Child
from remoting_bus.testing.brokers import LocalNats

AGENT = """
import sys, remoting_bus as rb
agent = rb.Agent(sys.argv[1], name="worker", offers={"processes"})
rb.run(agent.serve)
"""

ONE_AFTER_ANOTHER = """
import anyio
from remoting_bus._process.child import Child

async def main():
    print("ready", flush=True)
    for _ in range(150):
        await Child.start([b"sleep", b"12345.678"], cwd=None, env=None)
    await anyio.sleep_forever()

anyio.run(main)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait up to ten seconds."""
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def sleepers() -> list[int]:
    return [
        each.pid
        for each in psutil.process_iter(["cmdline"])
        if each.info["cmdline"] == ["sleep", "12345.678"]
    ]


def test_there_is_no_moment_to_leave_one_behind() -> None:
    """Killed -9 while it starts one process after another, at any time."""
    for pause in (0.0, 0.06, 0.13, 0.37):
        command = [sys.executable, "-c", ONE_AFTER_ANOTHER]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
            assert agent.stdout is not None
            assert agent.stdout.readline() == b"ready\n"
            time.sleep(pause)
            agent.kill()
            agent.wait()
        wait_until(lambda: not sleepers())


@pytest.fixture
def url() -> Iterator[str]:
    with LocalNats() as nats:
        yield nats.urls[0]


def start_agent(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", AGENT, url])


@pytest.mark.broker("nats")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_agent_that_is_gone_leaves_no_process(url: str, number: int) -> None:
    """And its caller is told, by the agent's goodbye or by its successor."""
    agents = [start_agent(url)]
    pids: list[int] = []

    def replace() -> None:
        agents[0].send_signal(number)
        agents[0].wait()
        agents.append(start_agent(url))

    async def run_until_lost(worker: rb.RemoteAgent) -> None:
        line = "setsid sleep 300 & sleep 300 & echo $!; exec sleep 300"
        async with worker.open_process(line) as process:
            pids.append(int(await process.stdout.receive()))
            whole = psutil.Process(process.pid)
            pids.append(process.pid)
            pids.extend(each.pid for each in whole.children(recursive=True))
            assert all(map(alive, pids))
            await anyio.to_thread.run_sync(replace)
            with anyio.fail_after(60):
                await process.wait()

    async def main() -> None:
        async with rb.Master(url, name="control", timeout=20) as master:
            worker = master.agent("worker")
            await worker.ready(timeout=30)
            with pytest.raises(rb.RemotingError):
                await run_until_lost(worker)

    try:
        anyio.run(main)
        wait_until(lambda: not any(map(alive, pids)))
    finally:
        for each in agents:
            each.kill()
            each.wait()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.anyio
@pytest.mark.usefixtures("no_blocking")
async def test_a_process_by_itself() -> None:
    """Started, heard, ended, without anything that blocks the loop."""
    child = await Child.start([b"cat"], cwd=b"/", env={b"A": b"1"})
    child.close_stdin()
    assert await child.wait() == 0
    child.signal(signal.SIGTERM)  # it has ended: nothing happens
    child.end()
    await child.wait_gone()
    child.close()
    child.close()


@pytest.mark.anyio
async def test_the_keeper_rests_and_comes_again() -> None:
    """It ends a moment after its last process, and nobody is lost by that."""
    child = await Child.start([b"sleep", b"300"], cwd=None, env=None)
    first = psutil.Process(child.pid).ppid()
    child.close()
    await anyio.to_thread.run_sync(wait_until, lambda: not psutil.pid_exists(first))
    child = await Child.start([b"sleep", b"300"], cwd=None, env=None)
    assert psutil.Process(child.pid).ppid() != first
    child.close()
    await anyio.to_thread.run_sync(wait_until, lambda: not alive(child.pid))


@pytest.mark.anyio
async def test_what_is_used_up_is_an_error() -> None:
    """No file is left open by an attempt that failed."""
    before = psutil.Process().num_fds()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    child = await Child.start([b"true"], cwd=None, env=None)
    child.close()
    for more in range(8):
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + more, hard))
        try:
            (await Child.start([b"true"], cwd=None, env=None)).close()
        except OSError as error:
            assert error.errno == errno.EMFILE  # noqa: PT017 - or it worked
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert psutil.Process().num_fds() <= before + 1
