"""Two agents of one name: the newcomer has it, the other stops, and they never take turns."""

from __future__ import annotations

import re
from typing import Any

import anyio
import pytest

from remoting_bus._master import AgentJoined, AgentLost
from remoting_bus.errors import NameTaken

from .conftest import Place, between_processes
from .processes import start_victim

pytestmark = pytest.mark.anyio


async def test_a_newcomer_fences_the_old_one_which_names_it(place: Place) -> None:
    async with place.master() as master, anyio.create_task_group() as tasks:
        errors: list[NameTaken] = []
        stopped = anyio.Event()

        async def serve_old(task_status: Any) -> None:
            try:
                await place.agent(master).serve(task_status=task_status)
            except NameTaken as error:
                errors.append(error)
                stopped.set()

        await tasks.start(serve_old)
        async with master.watch() as events:
            assert isinstance(await anext(events), AgentJoined)
            newcomer = place.agent(master)
            newcomer.command("who")(lambda: "newcomer")
            async with newcomer:
                assert await master.agent("agent").call("who") == "newcomer"
                with anyio.fail_after(20):
                    await stopped.wait()
                assert master.agent("agent").state == "joined"
                error = errors[0]
                assert error.name == "agent"
                assert re.search(r"process \d+ on ", error.by)
                assert error.by in str(error)
                latest = await anext(events)
                assert isinstance(latest, AgentJoined | AgentLost)


async def test_the_fenced_one_is_refused_while_the_newcomer_lives(place: Place) -> None:
    """A supervisor that restarts the fenced one only gets the same error again."""
    async with place.master() as master, anyio.create_task_group() as tasks:
        stopped = anyio.Event()

        async def serve_old(task_status: Any) -> None:
            with pytest.raises(NameTaken):
                await place.agent(master).serve(task_status=task_status)
            stopped.set()

        await tasks.start(serve_old)
        newcomer = place.agent(master)
        newcomer.command("who")(lambda: "newcomer")
        async with newcomer:
            with anyio.fail_after(20):
                await stopped.wait()
                for _ in range(3):
                    with pytest.raises(NameTaken, match="in use"):
                        async with place.agent(master):
                            pass
            assert await master.agent("agent").call("who") == "newcomer"
        # It has left: the name is free again.
        async with place.agent(master):
            assert master.agent("agent").state == "joined"
        tasks.cancel_scope.cancel()


async def test_a_name_that_is_taken_is_told_on_leaving_too(place: Place) -> None:
    async with place.master() as master:
        old = place.agent(master)
        await old.__aenter__()
        async with place.agent(master):
            with anyio.fail_after(20):
                with pytest.raises(NameTaken):
                    await old.wait_ended()
            with pytest.raises(NameTaken, match="has taken its name"):
                await old.__aexit__(None, None, None)


@between_processes
@pytest.mark.parametrize("name", ["agent", "zebra"], ids=["below", "above"])
async def test_two_supervisors_do_not_take_turns(place: Place, name: str) -> None:
    """Whichever of agent's and master's name gives way where hellos cross (law 13)."""
    async with (
        place.master(heartbeat=0.2) as master,
        anyio.create_task_group() as tasks,
    ):
        url = master.urls[0]
        statuses: dict[str, list[int | None]] = {"a": [], "b": []}
        enough = anyio.Event()

        async def supervisor(which: str) -> None:
            while True:
                async with await start_victim(url, place.namespace, name) as process:
                    try:
                        await process.wait()
                        statuses[which].append(process.returncode)
                        if sum(map(len, statuses.values())) == 4:
                            enough.set()
                    finally:
                        if process.returncode is None:
                            process.kill()

        handle = master.agent(name)
        tasks.start_soon(supervisor, "a")
        await handle.ready(timeout=30)
        first = await handle.call("getpid")
        tasks.start_soon(supervisor, "b")
        with anyio.fail_after(60):
            await enough.wait()
            pids = {await handle.using(timeout=10).call("getpid") for _ in range(3)}
        assert len(pids) == 1, "they took turns"
        assert first not in pids, "the newcomer has the name"
        assert statuses["b"] == []
        assert set(statuses["a"]) == {3}
        tasks.cancel_scope.cancel()
