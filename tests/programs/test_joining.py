"""Masters and agents find each other, and what a master sees of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from remoting_bus._agent import Agent
from remoting_bus._master import (
    AgentEvent,
    AgentJoined,
    AgentLeft,
    Master,
    RemoteAgent,
)
from remoting_bus.channel.pair import open_bus
from remoting_bus.errors import (
    CallRefused,
    CallTimeout,
    ChannelClosed,
    LocalProtocolError,
    PeerLost,
)

from .conftest import Place, on, shared

pytestmark = pytest.mark.anyio


async def kinds(events: AsyncIterator[AgentEvent], count: int) -> list[tuple[Any, str]]:
    """Return the next events: their classes, and whose they are."""
    found = []
    with anyio.fail_after(20):
        for _ in range(count):
            event = await anext(events)
            found.append((type(event), event.agent.name))
    return found


async def test_an_agent_joins_and_leaves_and_the_master_sees_it(place: Place) -> None:
    async with place.master() as master:
        assert master.agent("agent").state == "unknown"
        handle = master.agent("agent")
        async with master.watch() as events:
            async with place.agent(master, labels={"web", "linux"}) as agent:
                assert agent.master == "master"
                assert master.agent("agent").state == "joined"
                assert handle.labels == {"web", "linux"}
                assert master.agents() == [handle]
                assert master.agents(labels={"web"}) == [handle]
                assert master.agents(labels={"db"}) == []
                assert handle.info["role"] == "agent"
                assert await kinds(events, 1) == [(AgentJoined, "agent")]
            left = await anext(events)
        assert isinstance(left, AgentLeft)
        assert left.agent is handle
        assert master.agent("agent").state == "left"
        assert master.agents() == []


async def test_serve_says_that_it_has_joined(place: Place) -> None:
    async with place.master() as master, anyio.create_task_group() as tasks:
        agent = place.agent(master)
        await tasks.start(agent.serve)
        assert [each.name for each in master.agents()] == ["agent"]
        tasks.cancel_scope.cancel()


@shared
async def test_an_agent_may_be_there_before_its_master(place: Place) -> None:
    async with open_bus(place.url) as bus, anyio.create_task_group() as tasks:
        options: dict[str, Any] = {"offers": {"commands"}}
        agent = Agent(bus, name="early", namespace=place.namespace, **options)
        tasks.start_soon(agent.serve)
        await checkpoint()
        async with place.master() as master:
            await master.agent("early").ready(timeout=20)
            assert master.agent("early").state == "joined"
        tasks.cancel_scope.cancel()


async def test_a_watch_begins_with_those_that_are_here(place: Place) -> None:
    async with place.master() as master:
        async with place.agent(master, "a"), place.agent(master, "b"):
            async with master.watch() as events:
                assert set(await kinds(events, 2)) == {
                    (AgentJoined, "a"),
                    (AgentJoined, "b"),
                }


async def test_a_slow_reader_gets_the_latest_of_each_agent(place: Place) -> None:
    async with place.master() as master, master.watch() as events:
        for _ in range(3):
            async with place.agent(master):
                pass
        while master.agent("agent").state != "left":
            await checkpoint()
        assert await kinds(events, 1) == [(AgentLeft, "agent")]


async def test_a_watch_ends_with_its_master(place: Place) -> None:
    async with place.master() as master:
        watch = master.watch()
        events = await watch.__aenter__()
    assert [event async for event in events] == []
    await watch.__aexit__(None, None, None)


async def test_one_handle_for_one_name(place: Place) -> None:
    async with place.master() as master:
        handle = master.agent("agent")
        async with place.agent(master):
            assert master.agent("agent") is handle
        assert master.agent("agent") is handle


async def test_ready_waits_for_an_agent_and_gives_up(place: Place) -> None:
    async with place.master() as master:
        with pytest.raises(CallTimeout, match="no agent 'agent' answered") as caught:
            await master.agent("agent").ready(timeout=0.2)
        assert caught.value.executed == "no"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(place.agent(master).serve)
            await master.agent("agent").ready(timeout=20)
            assert master.agent("agent").state == "joined"
            tasks.cancel_scope.cancel()


async def test_a_call_waits_for_an_agent_that_comes(place: Place) -> None:
    async with place.master() as master, anyio.create_task_group() as tasks:
        results: list[int] = []
        done = anyio.Event()

        async def call() -> None:
            handle = master.agent("agent").using(timeout=20)
            results.append(await handle.call("add", 1, 2))
            done.set()

        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        agent = place.agent(master)
        agent.command("add")(lambda a, b: a + b)
        async with agent:
            with anyio.fail_after(20):
                await done.wait()
        assert results == [3]


async def test_an_agent_that_is_never_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remoting_bus._master.remote_agent.JOIN_TIMEOUT", 0.3)
    async with place.master() as master, place.agent(master, "known"):
        with pytest.raises(PeerLost, match=r"no agent 'nobody'.*here: known") as lost:
            await master.agent("nobody").call("add", 1, 2)
        assert lost.value.executed == "no"
        with pytest.raises(CallTimeout, match="here: known") as late:
            await master.agent("nobody").using(timeout=0.1).call("add", 1, 2)
        assert late.value.executed == "no"


@shared
async def test_an_agent_finds_a_master_that_was_restarted(place: Place) -> None:
    async with anyio.create_task_group() as tasks:
        async with open_bus(place.url) as bus:
            agent = Agent(
                bus, name="agent", namespace=place.namespace, offers={"commands"}
            )
            async with place.master():
                await tasks.start(agent.serve)
            for name in ("master", "another"):
                async with place.master(name) as master:
                    await master.agent("agent").ready(timeout=20)
                    assert [each.name for each in master.agents()] == ["agent"]
            tasks.cancel_scope.cancel()


@shared
async def test_two_masters_share_a_namespace(place: Place) -> None:
    """Each agent has one home; the other master calls it all the same."""
    async with place.master("one") as one, place.master("two") as two:
        names = [f"agent-{n}" for n in range(8)]
        async with anyio.create_task_group() as tasks:
            for name in names:
                agent = place.agent(one, name)
                agent.command("whoami")(lambda name=name: name)
                await tasks.start(agent.serve)
            homes = [{each.name for each in m.agents()} for m in (one, two)]
            assert homes[0] | homes[1] == set(names)
            assert not homes[0] & homes[1]
            assert homes[0]
            assert homes[1], "eight hashes fell on one side"
            for master in (one, two):
                for name in names:
                    assert await master.agent(name).call("whoami") == name
                    await master.agent(name).ready(timeout=10)
            records = await one.survey()
            assert [(r.name, r.state) for r in records] == [
                (name, "joined") for name in names
            ]
            assert {r.master for r in records} == {"one", "two"}
            tasks.cancel_scope.cancel()


@shared
async def test_a_master_that_does_not_adopt_has_no_agents_and_calls(
    place: Place,
) -> None:
    async with place.master("home") as home, place.agent(home) as agent:
        agent.command("add")(lambda a, b: a + b)
        async with place.master("tool", adopt=False) as tool:
            assert await tool.agent("agent").call("add", 2, 3) == 5
            assert tool.agents() == []
            assert [r.name for r in await tool.survey()] == ["agent"]
            assert agent.master == "home"


@shared
async def test_namespaces_keep_fleets_apart(place: Place) -> None:
    async with place.master() as ours, place.agent(ours):
        async with Master(place.url, namespace="elsewhere") as theirs:
            assert await theirs.survey(timeout=0.4) == []
            with pytest.raises(CallTimeout):
                await theirs.agent("agent").ready(timeout=0.2)


async def test_an_agent_joins_by_token(place: Place) -> None:
    async with place.master() as master:
        token = master.join_token
        assert token.startswith("rb1.")
        async with Agent(join=token, name="agent", offers={"commands"}) as agent:
            assert agent.namespace == place.namespace
            assert master.agent("agent").state == "joined"


async def test_many_agents_share_an_open_bus(place: Place) -> None:
    async with place.master() as master:
        async with open_bus(master.urls) as bus, anyio.create_task_group() as tasks:
            for number in range(20):
                agent = Agent(
                    bus,
                    name=f"agent-{number}",
                    namespace=place.namespace,
                    offers={"commands"},
                )
                agent.command("number")(lambda number=number: number)
                await tasks.start(agent.serve)
            found: dict[str, int] = {}
            gathered = master.using(limit=5, timeout=20).gather(
                master.agents(), "number"
            )
            async with gathered as results:
                async for each, outcome in results:
                    assert isinstance(each, RemoteAgent)
                    found[each.name] = outcome.value
            assert found == {f"agent-{number}": number for number in range(20)}
            tasks.cancel_scope.cancel()


async def test_one_agents_failure_is_an_outcome(place: Place) -> None:
    async with place.master() as master:
        async with place.agent(master, "good") as good, place.agent(master, "bad"):
            good.command("work")(lambda: "done")
            agents = [master.agent(name) for name in ("good", "bad", "absent")]
            states = {}
            gathered = master.using(timeout=2.0).gather(agents, "work")
            async with gathered as results:
                async for each, outcome in results:
                    states[each.name] = outcome.state
            assert states == {
                "good": "returned",
                "bad": "refused",
                "absent": "cancelled",
            }


async def test_leaving_a_gather_cancels_what_runs(place: Place) -> None:
    async with place.master() as master, place.agent(master) as agent:
        ended = anyio.Event()
        began = anyio.Event()

        @agent.command("hang")
        async def hang() -> None:
            began.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

        async with master.gather([master.agent("agent")], "hang"):
            await began.wait()
        with anyio.fail_after(10):
            await ended.wait()


async def test_an_agent_drains(place: Place) -> None:
    """No new calls, running ones get their time, and the master sees it leave."""
    async with place.master() as master, anyio.create_task_group() as tasks:
        agent = place.agent(master)
        began, go_on = anyio.Event(), anyio.Event()

        @agent.command("work")
        async def work() -> str:
            began.set()
            await go_on.wait()
            return "done"

        served = anyio.Event()

        async def serve(task_status: Any) -> None:
            await agent.serve(task_status=task_status)
            served.set()

        await tasks.start(serve)
        handle = master.agent("agent")
        async with master.watch() as events, handle.start("work") as call:
            await began.wait()
            assert await kinds(events, 1) == [(AgentJoined, "agent")]
            tasks.start_soon(agent.drain)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(CallRefused, match="is leaving"):
                await handle.using(timeout=5).call("work")
            go_on.set()
            assert await call.result() == "done"
            assert await kinds(events, 1) == [(AgentLeft, "agent")]
        with anyio.fail_after(10):
            await served.wait()
        assert handle.state == "left"


async def test_draining_has_a_limit(place: Place) -> None:
    async with place.master() as master:
        async with place.agent(master) as agent:
            began = anyio.Event()

            @agent.command("hang")
            async def hang() -> None:
                began.set()
                await anyio.sleep_forever()

            async with master.agent("agent").start("hang") as call:
                await began.wait()
                with anyio.fail_after(10):
                    await agent.drain(timeout=0.1)
                call.cancel()


async def test_a_program_is_entered_once_at_a_time_and_may_be_again(
    place: Place,
) -> None:
    async with place.master() as master:
        with pytest.raises(LocalProtocolError, match="running already"):
            await master.__aenter__()
        agent = place.agent(master)
        for _ in range(2):
            async with agent:
                assert master.agent("agent").state == "joined"


async def test_a_program_that_is_not_running_says_so(place: Place) -> None:
    master = place.master()
    with pytest.raises(ChannelClosed, match="not running"):
        await master.agent("agent").call("add")
    with pytest.raises(ChannelClosed, match="not running"):
        _ = master.join_token
    async with master:
        pass
    with pytest.raises(ChannelClosed, match="not running"):
        await master.agent("agent").call("add")


async def test_entered_in_one_task_and_left_in_another(place: Place) -> None:
    master = place.master()

    async def enter(task_status: Any) -> None:
        await master.__aenter__()
        task_status.started()

    async def leave() -> None:
        await master.__aexit__(None, None, None)

    async with anyio.create_task_group() as tasks:
        await tasks.start(enter)
    async with place.agent(master) as agent:
        agent.command("add")(lambda a, b: a + b)
        assert await master.agent("agent").call("add", 1, 1) == 2
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)


@on("embedded")
async def test_a_master_without_a_url_brings_a_bus_of_its_own(place: Place) -> None:
    async with Master() as master:
        assert master.urls[0].startswith("nats://127.0.0.1:")
        assert master.name != Master().name, "names made up are new each time"
        async with Agent(join=master.join_token, name="agent", offers={"commands"}):
            assert [each.name for each in master.agents()] == ["agent"]
