"""The embedded bus: started, shared, restarted, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from remoting_bus.bus import LinkEvent
from remoting_bus.errors import ConnectionFailed
from remoting_bus.names import Address, Lane
from remoting_bus_nats import NatsBackend
from remoting_bus_nats.embedded import EmbeddedBackend, EmbeddedBus, EmbeddedServer
from remoting_bus_nats.folders import RUNS_KEPT, RunFolder

pytestmark = [pytest.mark.asyncio, pytest.mark.broker("nats")]

LIMIT = 20.0
HERE = Address("ns", "reader", "writer")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "remoting_bus" / "embedded"


async def opened(stack: AsyncExitStack, url: str) -> EmbeddedBus:
    bus = await stack.enter_async_context(EmbeddedBackend().open(url))
    assert isinstance(bus, EmbeddedBus)
    return bus


async def wait_state(events: AsyncIterator[LinkEvent], state: str) -> None:
    async with asyncio.timeout(LIMIT):
        async for event in events:
            if event.state == state:
                return


def wait_gone(pid: int) -> None:
    """Until a process is gone that is not our child."""
    try:
        psutil.Process(pid).wait(LIMIT)
    except psutil.NoSuchProcess:
        return


async def test_agents_reach_it_by_its_urls() -> None:
    """A bus of one's own on loopback, and plain nats:// for everybody else."""
    async with AsyncExitStack() as stack:
        bus = await opened(stack, "embedded://")
        assert all(url.startswith("nats://127.0.0.1:") for url in bus.urls)
        agent = await stack.enter_async_context(NatsBackend().open(bus.urls[0]))
        got = asyncio.Event()
        await stack.enter_async_context(
            bus.consume(
                HERE, [Lane.CALL], prefetch=1, deliver=lambda _body, _lane: got.set()
            )
        )
        await agent.publish(HERE, Lane.CALL, b"x")
        async with asyncio.timeout(LIMIT):
            await got.wait()
        pid = bus.server.pid
        assert pid is not None
        listening = psutil.Process(pid).net_connections("tcp")
        assert {c.laddr.ip for c in listening if c.status == "LISTEN"} == {"127.0.0.1"}
    assert not psutil.pid_exists(pid)


async def test_openings_of_one_url_share_a_server_across_threads() -> None:
    """Two loops, one server; it ends with the last of them, whichever that is."""
    pids: list[int | None] = []
    inside = threading.Event()
    leave = threading.Event()

    async def other_loop() -> None:
        async with AsyncExitStack() as stack:
            pids.append((await opened(stack, "embedded://")).server.pid)
            inside.set()
            await asyncio.to_thread(leave.wait)

    async with AsyncExitStack() as stack:
        bus = await opened(stack, "embedded://")
        pids.append(bus.server.pid)
        thread = threading.Thread(target=asyncio.run, args=(other_loop(),))
        thread.start()
        assert await asyncio.to_thread(inside.wait, LIMIT)
        another = await opened(stack, "embedded://?ping_interval=5")
        assert another.server.pid not in pids
    assert pids[0] == pids[1]
    assert pids[0] is not None
    assert psutil.pid_exists(pids[0])
    leave.set()
    await asyncio.to_thread(thread.join, LIMIT)
    assert not psutil.pid_exists(pids[0])


async def test_killed_it_is_started_again_on_its_port() -> None:
    """kill -9 of the server: the same URL, another process, and the link comes back."""
    async with AsyncExitStack() as stack:
        bus = await opened(stack, "embedded://")
        events = await stack.enter_async_context(bus.link_events())
        await wait_state(events, "up")
        url, before = bus.urls, bus.server.pid
        for restarts in (1, 2):
            pid = bus.server.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await wait_state(events, "down")
            await wait_state(events, "up")
            assert bus.server.restarts == restarts
        assert bus.urls == url
        assert bus.server.pid not in (None, before)
        await bus.publish(HERE, Lane.CALL, b"x")


async def test_credentials_are_asked_and_given() -> None:
    """A login in the URL is in `urls` too, and nobody comes in without."""
    async with AsyncExitStack() as stack:
        bus = await opened(stack, "embedded://me:p%40ss@127.0.0.1")
        async with NatsBackend().open(bus.urls[0]):
            pass
        with pytest.raises(ConnectionFailed, match="refuses the credentials"):
            async with NatsBackend().open(bus.urls[0].replace("me:p%40ss@", "")):
                pass
        token = await opened(stack, "embedded://secret@127.0.0.1")
        assert token.urls[0].startswith("nats://secret@127.0.0.1:")


async def test_listening_on_all_is_only_when_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """0.0.0.0 gives an address that others can use, and a warning without a login."""
    async with EmbeddedServer(host="0.0.0.0") as server:
        assert "0.0.0.0" not in server.urls[0]
        async with NatsBackend().open(server.urls[0]):
            pass
    assert "without credentials" in caplog.text


async def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    """The server's own last words are in the message; nothing is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionFailed, match="address already in use"):
            async with EmbeddedBackend().open(f"embedded://127.0.0.1:{port}"):
                pass
    async with EmbeddedBackend().open(f"embedded://127.0.0.1:{port}"):
        pass


async def test_mail_outlives_a_server_with_a_store(tmp_path: Path) -> None:
    """store= keeps mailboxes over runs."""
    url = f"embedded://?topology=jetstream&mailbox_bytes=8000000&store={tmp_path}/mail"
    got: list[bytes] = []
    arrived = asyncio.Event()

    def deliver(body: bytes, lane: Lane) -> None:
        got.append(body)
        arrived.set()

    async with EmbeddedBackend().open(url) as bus:
        async with bus.consume(HERE, [Lane.CALL], prefetch=1, deliver=deliver):
            pass
        await bus.publish(HERE, Lane.CALL, b"kept")
    async with (
        EmbeddedBackend().open(url) as bus,
        bus.consume(HERE, [Lane.CALL], prefetch=1, deliver=deliver),
        asyncio.timeout(LIMIT),
    ):
        await arrived.wait()
    assert got == [b"kept"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("embedded://a,b", "one server"),
        ("embedded://?nope=1", "nope"),
        ("embedded:///path", "one server"),
        ("embedded://?store=", "store"),
    ],
)
async def test_a_url_that_is_wrong_is_told(url: str, words: str) -> None:
    """Before anything is started."""
    with pytest.raises(ValueError, match=words):
        EmbeddedBackend().open(url)


async def test_a_cancelled_opening_leaves_no_server() -> None:
    """Cancelled while it starts: what was started is ended."""

    async def enter() -> None:
        async with EmbeddedBackend().open("embedded://"):
            await asyncio.Event().wait()

    for turns in (1, 3, 50):
        task = asyncio.create_task(enter())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    children = psutil.Process().children(recursive=True)
    assert not [c for c in children if c.name() == "nats-server"]


MASTER = """
import asyncio
from remoting_bus_nats.embedded import EmbeddedBackend

async def main():
    async with EmbeddedBackend().open("embedded://") as bus:
        print(bus.server.pid, bus.server.log_path, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_it_ends_when_its_master_is_killed(state: Path) -> None:
    """kill -9 of the master: the server is gone; the next run removes its leftovers."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    master = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MASTER, stdout=subprocess.PIPE, env=environment
    )
    assert master.stdout is not None
    async with asyncio.timeout(LIMIT):
        pid, log = (await master.stdout.readline()).split()
    assert psutil.pid_exists(int(pid))
    master.kill()
    await master.wait()
    await asyncio.to_thread(wait_gone, int(pid))
    assert not psutil.pid_exists(int(pid))
    assert log.startswith(os.fsencode(state))


async def test_logs_of_the_last_runs_stay() -> None:
    """Only logs, only of the last runs, and never those of a run that goes on."""
    going_on = RunFolder()
    going_on.make()
    os.utime(going_on.path, (1, 1))
    paths = []
    for _ in range(RUNS_KEPT + 3):
        run = RunFolder()
        run.make()
        run.write("secret.conf", "x")
        log = run.path / "log"
        log.write_text("x")
        run.leave(keep=[log])
        paths.append(run.path)
        os.utime(run.path, (len(paths), len(paths)))
    last = RunFolder()
    last.make()
    assert going_on.path.exists()
    assert [path for path in paths if path.exists()] == paths[-RUNS_KEPT:]
    assert [file.name for file in paths[-1].iterdir()] == ["log"]
    assert last.path.stat().st_mode & 0o777 == 0o700
    going_on.leave(keep=[])
    assert not going_on.path.exists()
    last.leave(keep=[])
