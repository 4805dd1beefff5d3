"""A session that was opened for a call ends when it is not used, and nobody notices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from remoting_bus._agent import Agent
from remoting_bus._master import Master

from .conftest import Place, shared

pytestmark = [pytest.mark.anyio, shared]

IDLE = 0.2
SEVERAL = 4 * IDLE
LIMIT = 20.0


async def echo(value: int) -> int:
    return value


async def sleepy(seconds: float) -> str:
    await anyio.sleep(seconds)
    return "rested"


async def slowly(count: int) -> AsyncIterator[int]:
    for each in range(count):
        await anyio.sleep(SEVERAL)
        yield each


COMMANDS: dict[str, Any] = {"commands": [echo, sleepy, slowly]}


def peers(program: Master | Agent) -> set[str]:
    """Return with whom a program has sessions."""
    return set(program.statistics())


async def gone(program: Master | Agent, peer: str) -> None:
    """Wait until a program has no session with a peer."""
    with anyio.fail_after(LIMIT):
        while peer in peers(program):
            await checkpoint()


async def test_a_second_masters_session_ends_and_comes_again(place: Place) -> None:
    """At both sides; the agent stays with its home, and the next call is as the first."""
    async with (
        place.master() as master,
        place.agent(master, **COMMANDS),
        place.master("second", adopt=False, idle=IDLE) as second,
    ):
        handle = second.agent("agent")
        for value in range(3):
            with anyio.fail_after(LIMIT):
                assert await handle.using(timeout=10).call(echo, value) == value
            assert peers(second) == {"agent"}
            await gone(second, "agent")
        assert await master.agent("agent").call(echo, 9) == 9


async def test_the_agent_forgets_it_too(place: Place) -> None:
    async with (
        place.master() as master,
        place.agent(master, **COMMANDS) as agent,
        place.master("second", adopt=False, idle=IDLE) as second,
    ):
        assert await second.agent("agent").using(timeout=10).call(echo, 1) == 1
        assert peers(agent) == {"master", "second"}
        await gone(agent, "second")
        assert peers(agent) == {"master"}


async def test_what_runs_keeps_it(place: Place) -> None:
    """A call, and a stream, each many times as long as the idle time."""
    async with (
        place.master() as master,
        place.agent(master, **COMMANDS),
        place.master("second", adopt=False, idle=IDLE) as second,
    ):
        handle = second.agent("agent")
        with anyio.fail_after(LIMIT):
            assert await handle.call(sleepy, 5 * IDLE) == "rested"
            async with handle.stream(slowly, 3) as items:
                assert [each async for each in items] == [0, 1, 2]
        await gone(second, "agent")


async def test_an_open_file_keeps_it(place: Place, tmp_path: Path) -> None:
    """It is read slowly, and to its end."""
    there = tmp_path / "there"
    there.write_bytes(bytes(range(256)) * 4096)
    async with (
        place.master() as master,
        place.agent(master, offers={"files"}),
        place.master("second", adopt=False, idle=IDLE) as second,
    ):
        with anyio.fail_after(LIMIT):
            async with second.agent("agent").files.open(str(there)) as file:
                got = await file.receive(1000)
                await anyio.sleep(SEVERAL)
                async for chunk in file:
                    got += chunk
        assert got == there.read_bytes()
        await gone(second, "agent")


async def test_calls_in_the_moment_of_its_end_are_not_lost(place: Place) -> None:
    """Calls at intervals around the idle time: each is answered."""
    async with (
        place.master() as master,
        place.agent(master, **COMMANDS),
        place.master("second", adopt=False, idle=0.02) as second,
    ):
        handle = second.agent("agent").using(timeout=10)
        with anyio.fail_after(LIMIT):
            for step in range(60):
                await anyio.sleep(0.02 + step * 0.0002)
                assert await handle.call(echo, step) == step


async def test_a_home_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever side opened it: the agent here, the master in the second half."""
    monkeypatch.setattr("remoting_bus._agent.agent.IDLE", IDLE)
    async with place.master(idle=IDLE) as master, place.agent(master) as agent:
        await anyio.sleep(SEVERAL)
        assert master.agent("agent").state == "joined"
        assert peers(agent) == {"master"}


async def test_a_home_that_the_master_opened_is_kept(place: Place) -> None:
    """It called the agent before that had chosen: their one session became the home."""
    async with place.master(idle=IDLE) as master, anyio.create_task_group() as tasks:
        handle = master.agent("agent")
        tasks.start_soon(handle.ready, LIMIT)
        await anyio.sleep(0.05)
        async with place.agent(master, **COMMANDS):
            with anyio.fail_after(LIMIT):
                assert await handle.using(timeout=10).call(echo, 1) == 1
            home = handle.home
            assert home is not None
            await anyio.sleep(SEVERAL)
            assert handle.home is home
            assert handle.state == "joined"
