"""Processes on an agent, over the memory bus, with the real protocol."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import CalledProcessError

import anyio
import pytest

import remoting_bus as rb

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def fleet(name: str) -> AsyncIterator[rb.RemoteAgent]:
    """A master and one agent that offers processes; yields the master's handle."""
    url = f"memory://{name}"
    agent = rb.Agent(url, name="worker", offers={"processes"})
    async with rb.Master(url, name="control") as master, agent:
        worker = master.agent("worker")
        await worker.ready(timeout=10)
        yield worker


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie that nobody has reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    with anyio.fail_after(10):
        while alive(pid):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)


async def test_output_and_status_of_a_process_arrive_whole() -> None:
    """Ten megabytes arrive byte for byte, apart from what goes to standard error."""
    script = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 40000); "
    script += "sys.stderr.write('careful'); sys.exit(3)"
    async with fleet("output") as worker:
        done = await worker.run_process([sys.executable, "-c", script], check=False)
    assert done.stdout == bytes(range(256)) * 40000
    assert done.stderr == b"careful"
    assert done.returncode == 3


async def test_an_exit_status_other_than_0_raises() -> None:
    """As with anyio, `check` is on, and the error has what was written."""
    async with fleet("status") as worker:
        with pytest.raises(CalledProcessError) as caught:
            await worker.run_process(["sh", "-c", "echo no >&2; exit 7"])
    assert caught.value.returncode == 7
    assert caught.value.stderr == b"no\n"


async def test_a_program_that_is_not_there_is_named() -> None:
    """The agent's FileNotFoundError arrives as itself."""
    async with fleet("missing") as worker:
        with pytest.raises(FileNotFoundError):
            await worker.run_process(["/no/such/program"])


async def test_closing_stdin_is_the_end_of_the_input() -> None:
    """`cat` gives back what it got, and ends when its input does."""
    async with fleet("stdin") as worker:
        async with worker.open_process(["cat"]) as process:
            await process.stdin.send(b"one ")
            await process.stdin.send(b"two")
            await process.stdin.aclose()
            read = b"".join([piece async for piece in process.stdout])
            assert await process.wait() == 0
    assert read == b"one two"


async def test_leaving_the_block_ends_the_whole_group() -> None:
    """A child of the child is gone, too."""
    async with fleet("group") as worker:
        command = "sleep 300 & echo $!; sleep 300"
        async with worker.open_process(command) as process:
            child = int(await process.stdout.receive())
            assert alive(process.pid)
            assert alive(child)
        await gone(process.pid)
        await gone(child)


async def test_a_caller_that_is_cancelled_is_free_at_once_and_the_process_ends() -> (
    None
):
    """Leaving a cancel scope does not wait for the process to go."""
    async with fleet("cancel") as worker:
        pid = 0
        with anyio.move_on_after(10) as scope:
            async with worker.open_process(["sleep", "300"]) as process:
                pid = process.pid
                scope.cancel()
                await anyio.sleep_forever()
        await gone(pid)


async def test_signals_reach_the_process() -> None:
    """The exit status says which signal it was."""
    async with fleet("signals") as worker:
        async with worker.open_process(["sleep", "300"]) as process:
            await process.terminate()
            assert await process.wait() == -15
        async with worker.open_process(["sleep", "300"]) as process:
            await process.kill()
            assert await process.wait() == -9


async def test_a_slow_reader_blocks_the_process_and_no_call() -> None:
    """An endless writer is held back, and calls beside it go on."""
    async with fleet("slow") as worker:
        async with worker.open_process("yes") as process:
            await process.stdout.receive()
            with anyio.fail_after(10):
                for _ in range(50):
                    done = await worker.run_process(["true"])
                    assert done.returncode == 0


async def test_captured_output_is_bounded() -> None:
    """Past `max_output` the process is ended, and the error names the limit."""
    async with fleet("bounded") as worker:
        with pytest.raises(rb.LimitExceeded, match="max_output") as caught:
            await worker.run_process("yes", max_output=1000)
    assert caught.value.value == 1000


async def test_environment_and_folder_are_the_callers() -> None:
    """`env` replaces the agent's, `cwd` is a folder of the agent's."""
    async with fleet("environment") as worker:
        done = await worker.run_process(
            "echo $COLOUR; pwd", env={"COLOUR": "blue"}, cwd=os.sep
        )
    assert done.stdout == b"blue\n/\n"


async def test_an_agent_that_offers_none_refuses() -> None:
    """`offers` decides; the error says so."""
    url = "memory://unoffered"
    agent = rb.Agent(url, name="worker", offers={"commands"})
    async with rb.Master(url, name="control") as master, agent:
        worker = master.agent("worker")
        await worker.ready(timeout=10)
        with pytest.raises(rb.CallRefused):
            await worker.run_process(["true"])
