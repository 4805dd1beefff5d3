"""Processes on an agent, over the memory bus, with the real protocol."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import CalledProcessError

import anyio
import anyio.abc
import psutil
import pytest

import remoting_bus as rb
from remoting_bus._process import run_process

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
        assert not alive(process.pid)
        assert not alive(child)


async def test_what_has_left_the_group_ends_too() -> None:
    """A daemon, twice forked into a session of its own, and its children."""
    async with fleet("daemon") as worker:
        command = "setsid sh -c '(sleep 300 & echo $!; wait) &' & sleep 300"
        async with worker.open_process(command) as process:
            daemon = int(await process.stdout.receive())
            assert alive(daemon)
        # A signal that was sent is not a process that is gone yet.
        with anyio.fail_after(5):
            while alive(daemon):  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.01)


async def test_what_shall_stay_stays() -> None:
    """A daemon without the variable that marks it is left alone."""
    async with fleet("stay") as worker:
        daemon_line = "echo $$; exec sleep 300 >/dev/null 2>&1"
        command = f"env -u REMOTING_BUS_PROCESS setsid sh -c '{daemon_line}' &"
        done = await worker.run_process(command)
        daemon = int(done.stdout)
        try:
            assert alive(daemon)
        finally:
            os.kill(daemon, signal.SIGKILL)


async def test_what_ignores_sigterm_is_killed() -> None:
    async with fleet("stubborn") as worker:
        command = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
        async with worker.open_process(command) as process:
            await process.stdout.receive()
        assert process.returncode == -signal.SIGKILL


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
            process.terminate()
            assert await process.wait() == -15
        async with worker.open_process(["sleep", "300"]) as process:
            process.kill()
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


async def test_output_that_nobody_reads_holds_nobody_up() -> None:
    """`wait` returns at the exit, and closing an output does not kill the process."""
    async with fleet("unread") as worker:
        async with worker.open_process("head -c 50000 /dev/zero; exit 4") as process:
            with anyio.fail_after(10):
                assert await process.wait() == 4
            assert process.returncode == 4
        command = "head -c 3000000 /dev/zero; echo done >&2"
        async with worker.open_process(command) as process:
            await process.stdout.aclose()
            assert await process.stderr.receive() == b"done\n"
            assert await process.wait() == 0


async def test_both_outputs_in_one() -> None:
    """In the order in which they were written."""
    async with fleet("merged") as worker:
        command = "echo 1; echo 2 >&2; echo 3"
        done = await worker.run_process(command, merge_stderr=True)
    assert (done.stdout, done.stderr) == (b"1\n2\n3\n", b"")


async def test_input_that_nobody_reads_is_no_error() -> None:
    async with fleet("input") as worker:
        done = await worker.run_process(["true"], input=bytes(3_000_000))
        assert done.returncode == 0
        data = os.urandom(3_000_000)
        done = await worker.run_process(["cat"], input=data)
        assert done.stdout == data
        async with worker.open_process("exec <&-; sleep 300") as process:
            with pytest.raises(anyio.BrokenResourceError):
                await send_for_ever(process.stdin)


async def send_for_ever(stream: anyio.abc.ByteSendStream) -> None:
    while True:
        await stream.send(bytes(65536))


async def test_many_at_once() -> None:
    """One keeper starts them all."""
    async with fleet("many") as worker:
        found: list[bytes] = []

        async def run(number: int) -> None:
            done = await worker.run_process(["echo", str(number)])
            found.append(done.stdout)

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(run, number)
    assert sorted(map(int, found)) == list(range(40))


async def test_a_bad_folder_or_variable_is_named() -> None:
    async with fleet("bad") as worker:
        with pytest.raises(FileNotFoundError) as caught:
            await worker.run_process(["true"], cwd="/no/such/folder")
        assert caught.value.filename == "/no/such/folder"
        with pytest.raises(PermissionError) as denied:
            await worker.run_process(["/etc/passwd"])
        assert denied.value.filename == "/etc/passwd"
        for bad in (["a\0b"], []):
            with pytest.raises(ValueError):
                await worker.run_process(bad)
        with pytest.raises(ValueError):
            await worker.run_process(["true"], env={"": "x"})


async def test_a_killed_keeper_is_an_error_and_kills() -> None:
    """Nothing hangs, nothing stays, and the next process gets a new one."""
    async with fleet("keeper") as worker:
        async with worker.open_process("sleep 300 & echo $!; wait") as process:
            child = int(await process.stdout.receive())
            os.kill(psutil.Process(process.pid).ppid(), signal.SIGKILL)
            with pytest.raises(rb.RemoteError, match="keeper"):
                await process.wait()
            await gone(process.pid)
            await gone(child)
            with pytest.raises(rb.RemoteError):
                await process.aclose()
        assert (await worker.run_process(["echo", "again"])).stdout == b"again\n"


async def test_the_deadline_ends_the_process() -> None:
    async with fleet("deadline") as worker:
        with pytest.raises(rb.CallTimeout):
            await run_process(worker.using(timeout=0.5), ["sleep", "300"])


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
