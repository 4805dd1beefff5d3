"""What goes wrong around programs: the bus stops, an agent is killed, a loop is blocked.

On real brokers and real processes; each test that harms a broker has one of its own.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator

import anyio
import pytest

from remoting_bus._agent import Agent
from remoting_bus._master import (
    AgentJoined,
    AgentLost,
    AgentResumed,
    AgentSuspended,
    Master,
)
from remoting_bus.errors import ConnectionFailed, PeerLost
from remoting_bus.testing.brokers import LocalNats

from .conftest import Place, between_processes
from .processes import ROOT, victim

pytestmark = [pytest.mark.anyio, pytest.mark.broker("nats"), between_processes]


@pytest.fixture
def nats() -> Iterator[LocalNats]:
    """A broker of this test's own, to be harmed."""
    with LocalNats() as broker:
        yield broker


def master_of(nats: LocalNats) -> Master:
    return Master(nats.urls[0], name="master", heartbeat=0.2)


async def test_a_bus_that_is_restarted_in_mid_call(nats: LocalNats) -> None:
    """The same call, in the same session, finishes afterwards; it ran once."""
    async with master_of(nats) as master:
        async with Agent(
            nats.urls[0], name="agent", offers={"commands"}, heartbeat=0.2
        ) as agent:
            runs: list[int] = []
            began, go_on = anyio.Event(), anyio.Event()

            @agent.command("work")
            async def work() -> str:
                runs.append(1)
                began.set()
                await go_on.wait()
                return "done"

            async with master.watch() as events:
                assert isinstance(await anext(events), AgentJoined)
                async with master.agent("agent").start("work") as call:
                    with anyio.fail_after(30):
                        await began.wait()
                        await anyio.to_thread.run_sync(nats.kill)
                        assert isinstance(await anext(events), AgentSuspended)
                        assert master.agent("agent").state == "suspended"
                        assert master.agents() == [master.agent("agent")]
                        go_on.set()
                        await anyio.to_thread.run_sync(nats.start)
                        assert await call.result() == "done"
                        assert isinstance(await anext(events), AgentResumed)
            assert runs == [1]


async def test_a_bus_that_stands_still(nats: LocalNats) -> None:
    """Connections stay up and nothing moves: heartbeats tell, and all goes on after."""
    async with master_of(nats) as master:
        async with victim(nats.urls[0], "default"):
            async with master.watch() as events:
                assert isinstance(await anext(events), AgentJoined)
                async with master.agent("agent").start("sleep", 0.5) as call:
                    with anyio.fail_after(30):
                        nats.pause()
                        suspended = await anext(events)
                        assert isinstance(suspended, AgentSuspended)
                        assert "silent" in suspended.reason
                        nats.resume()
                        assert await call.result() == "slept"
                        assert isinstance(await anext(events), AgentResumed)


async def test_a_killed_agent_is_lost_and_its_call_too(place: Place) -> None:
    async with place.master(heartbeat=0.2, grace=1.0) as master:
        async with victim(place.url, place.namespace) as process:
            async with master.watch() as events:
                assert isinstance(await anext(events), AgentJoined)
                async with master.agent("agent").start("sleep", 60.0) as call:
                    with anyio.fail_after(30):
                        process.kill()
                        with pytest.raises(PeerLost) as caught:
                            await call.result()
                        assert caught.value.executed == "unknown"
                        event = await anext(events)
                        while not isinstance(event, AgentLost):
                            event = await anext(events)
                assert master.agent("agent").state == "lost"
        # Nobody answers for the dead one: a new one is at home at once.
        async with victim(place.url, place.namespace):
            assert master.agent("agent").state == "joined"


async def test_an_agent_that_is_restarted_within_the_grace(place: Place) -> None:
    """The new process fences the dead one: nobody waits for the grace."""
    async with place.master(heartbeat=0.2) as master:
        async with victim(place.url, place.namespace) as process:
            async with master.agent("agent").start("sleep", 60.0) as call:
                process.kill()
                async with victim(place.url, place.namespace):
                    with anyio.fail_after(10), pytest.raises(PeerLost) as caught:
                        await call.result()
                    assert "new process" in str(caught.value)
                    assert master.agent("agent").state == "joined"


async def test_a_handler_that_ends_the_process(place: Place) -> None:
    async with place.master(heartbeat=0.2, grace=1.0) as master:
        async with victim(place.url, place.namespace) as process:
            with anyio.fail_after(30), pytest.raises(PeerLost) as caught:
                await master.agent("agent").call("exit_hard", 9)
            assert caught.value.executed == "unknown"
            assert await process.wait() == 9


async def test_a_blocked_loop_is_not_a_lost_agent(place: Place) -> None:
    """The I/O thread answers beats: the agent is slow, and never suspended."""
    async with place.master(heartbeat=0.2) as master:
        async with victim(place.url, place.namespace):
            async with master.watch() as events:
                assert isinstance(await anext(events), AgentJoined)
                began = time.monotonic()
                handle = master.agent("agent").using(timeout=20)
                assert await handle.call("block", 3.0) == "blocked"
                assert time.monotonic() - began >= 3.0
                with anyio.move_on_after(0.2):
                    pytest.fail(f"{await anext(events)} while its loop was blocked")
            assert master.agent("agent").state == "joined"


async def test_a_home_that_stays_silent_is_left_for_another(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A master that died, and came back under another name, does not hold its agents."""
    monkeypatch.setattr("remoting_bus._agent.home.SILENCE", 0.5)
    command = [sys.executable, "-c", SHORT_LIVED, place.url, place.namespace]
    async with await anyio.open_process(command, cwd=ROOT) as process:
        try:
            agent = Agent(
                place.url,
                name="agent",
                namespace=place.namespace,
                offers={"commands"},
                heartbeat=0.2,
            )
            async with agent:
                assert agent.master == "first"
                process.kill()
                async with place.master("second", heartbeat=0.2) as second:
                    async with second.watch() as events:
                        with anyio.fail_after(30):
                            assert isinstance(await anext(events), AgentJoined)
                    assert [each.name for each in second.agents()] == ["agent"]
        finally:
            if process.returncode is None:
                process.kill()


SHORT_LIVED = """
import sys, anyio
from remoting_bus._master import Master

async def main(url, namespace):
    async with Master(url, name="first", namespace=namespace, heartbeat=0.2):
        await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""
"""A master as a process of its own, to be killed."""


async def test_a_bus_that_is_not_there(
    nats: LocalNats, caplog: pytest.LogCaptureFixture
) -> None:
    nats.kill()
    with anyio.fail_after(10), pytest.raises(ConnectionFailed, match=r"within 0\.5 s"):
        async with Master(nats.urls[0], timeout=0.5):
            pass
    with anyio.fail_after(10), pytest.raises(ConnectionFailed, match=r"within 0\.5 s"):
        async with Agent(nats.urls[0], name="a", offers={"commands"}, timeout=0.5):
            pass
    said = anyio.Event()

    def note(record: logging.LogRecord) -> bool:
        said.set()
        return True

    caplog.handler.addFilter(note)
    async with anyio.create_task_group() as tasks:

        async def begin() -> None:
            async with Master(nats.urls[0]) as master:
                assert master.urls == nats.urls
                tasks.cancel_scope.cancel()

        tasks.start_soon(begin)
        with anyio.fail_after(20):
            await said.wait()
            assert "trying again" in caplog.text
            await anyio.to_thread.run_sync(nats.start)
            await anyio.sleep_forever()


async def test_wrong_credentials_are_an_error_and_no_retry() -> None:
    with LocalNats(user="user", password="right") as nats:
        wrong = nats.urls[0].replace("right", "wrong")
        assert wrong != nats.urls[0]
        for program in (
            Master(wrong),
            Agent(wrong, name="agent", offers={"commands"}),
        ):
            with anyio.fail_after(10), pytest.raises(ConnectionFailed) as caught:
                async with program:
                    pass
            assert "wrong" not in str(caught.value), "a secret in a message"
            assert caught.value.final
