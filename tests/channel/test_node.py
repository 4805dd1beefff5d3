"""Connecting, looking up, being fenced, draining."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from remoting_bus.channel.link import Link
from remoting_bus.channel.node import Node
from remoting_bus.channel.pair import open_bus
from remoting_bus.errors import CallTimeout, ChannelClosed, PeerLost
from remoting_bus.protocol.calls import IncomingCall, OutcomeKind, RefusalCode
from remoting_bus.protocol.terms import Phase

from .conftest import Hall, Opener, a_call, echo

pytestmark = pytest.mark.anyio


async def test_the_same_peer_is_the_same_link(two: Opener) -> None:
    """From either side, and for all who wait at once."""
    async with two() as t:
        assert await t.a.connect("b") is t.link
        assert await t.b.connect("a") is t.b.links["a"]


async def test_nobody_of_that_name(two: Opener) -> None:
    """In time, saying whom; and nothing is left of the attempt."""
    async with two() as t:
        with pytest.raises(CallTimeout, match="'nobody'") as raised:
            await t.a.connect("nobody", timeout=0.1)
        assert raised.value.executed == "no"
        while t.a.statistics()["links"] > 1:
            await anyio.lowlevel.checkpoint()


async def test_crossing_hellos_make_one_link(hall: Hall, shell: str) -> None:
    """Both sides open at once, and use the link at once."""
    url = f"hall://x?loops={shell[-1]}"
    with anyio.fail_after(10):
        async with (
            open_bus(url) as pair,
            Node(pair, "a", serve=echo) as a,
            Node(pair, "b", serve=echo) as b,
        ):

            async def use(node: Node, peer: str) -> None:
                link = await node.connect(peer, timeout=5)
                call = a_call(node.name)
                link.start(call)
                assert (await link.wait(call)).value == node.name

            async with anyio.create_task_group() as group:
                group.start_soon(use, a, "b")
                group.start_soon(use, b, "a")
            assert a.links["b"].session_id == b.links["a"].session_id


async def test_a_lookup_finds_the_masters(hall: Hall, shell: str) -> None:
    """And nobody else, and nobody where there is none."""
    url = f"hall://x?loops={shell[-1]}"
    with anyio.fail_after(10):
        async with open_bus(url) as pair, Node(pair, "agent", serve=echo) as agent:
            assert await agent.look_up(timeout=0.05) == []
            async with (
                Node(pair, "m1", serve=echo, answers_lookup={"release": "1"}),
                Node(pair, "m2", serve=echo, answers_lookup={"release": "2"}),
                Node(pair, "m3", serve=echo, namespace="other", answers_lookup={}),
            ):
                found = await agent.look_up(timeout=5)
                assert {each.name: each.info["release"] for each in found} == {
                    "m1": "1",
                    "m2": "2",
                }


async def test_a_second_one_of_a_name_fences_the_first(hall: Hall, shell: str) -> None:
    """The first is told, the peer's link is the second's."""
    url = f"hall://x?loops={shell[-1]}"
    with anyio.fail_after(10):
        async with open_bus(url) as pair, Node(pair, "m", serve=echo) as master:
            first = Node(pair, "w", serve=echo)
            second = Node(pair, "w", serve=echo, info={"pid": 2})
            async with first:
                await first.connect("m")
                async with second:
                    await second.connect("m")
                    fenced = await first.wait_fenced()
                    assert fenced.peer == "m"
                    assert fenced.by == {"pid": 2}
                    assert master.links["w"].info == {"pid": 2}
                    assert "m" not in first.links


async def test_draining_refuses_new_calls_and_waits(two: Opener) -> None:
    """What runs has its time; what comes is told to go elsewhere."""
    release = anyio.Event()

    async def serve(link: Link, call: IncomingCall) -> None:
        await release.wait()
        await echo(link, call)

    async with two(serve) as t:
        running = a_call("had its time")
        t.link.start(running)
        while not t.b.pool.running:
            await anyio.lowlevel.checkpoint()
        assert not await t.b.drain(timeout=0.05)
        late = a_call("late")
        t.link.start(late)
        outcome = await t.link.wait(late)
        assert outcome.kind is OutcomeKind.REFUSED
        assert outcome.code is RefusalCode.ENDING
        release.set()
        assert await t.b.drain(timeout=5)
        assert (await t.link.wait(running)).value == "had its time"


async def test_a_node_that_leaves_tells_who_has_just_come(
    hall: Hall, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has answered, and nothing came in the session yet: the peer knows at once."""
    url = f"hall://x?loops={shell[-1]}"
    with anyio.fail_after(10):
        async with (
            open_bus(url) as here,
            open_bus(url) as there,
            Node(here, "a", serve=echo) as a,
            Node(there, "b", serve=echo) as b,
        ):
            async with anyio.create_task_group() as group:
                group.start_soon(a.connect, "b")
                while b.endpoint.wake_at(0.0) is None:
                    await anyio.lowlevel.checkpoint()
                for reader in hall.readers["default", "b"]:
                    monkeypatch.setattr(reader, "put", lambda body, lane: None)
            link = a.links["b"]
            assert not b.links
            await b.aclose()
            while link.phase is not Phase.OVER:
                await anyio.lowlevel.checkpoint()
            assert isinstance(link.cause, PeerLost)


async def test_a_node_that_was_left_is_closed(hall: Hall) -> None:
    """Its use is refused by name, its peers see it gone."""
    async with open_bus("hall://x?loops=1") as pair:
        async with Node(pair, "a", serve=echo) as a, Node(pair, "b", serve=echo) as b:
            link = await a.connect("b")
            call = a_call("b knows the session, too")
            link.start(call)
            await link.wait(call)
            await b.aclose()
            while link.phase is not Phase.OVER:
                await anyio.lowlevel.checkpoint()
            with pytest.raises(ChannelClosed, match="not open"):
                await b.connect("a")
        with pytest.raises(ValueError, match="is not allowed"):
            Node(pair, "not a name", serve=echo)
