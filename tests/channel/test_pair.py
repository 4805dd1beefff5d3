"""Opening a bus, and the life of its two connections."""

from __future__ import annotations

import logging
import threading
import time

import anyio
import anyio.lowlevel
import pytest

from remoting_bus._loop import current_loop
from remoting_bus.bus.backend import LinkEvent
from remoting_bus.channel.node import Node
from remoting_bus.channel.pair import Pair, open_bus
from remoting_bus.errors import (
    ChannelBroken,
    ChannelClosed,
    ConnectionFailed,
    LocalProtocolError,
)
from remoting_bus.names import Address, Lane
from remoting_bus.protocol.calls import OutcomeKind

from .conftest import TIME_LIMIT, Hall, Opener, a_call, echo

pytestmark = pytest.mark.anyio


async def test_both_connections_are_opened_and_closed(hall: Hall, shell: str) -> None:
    """Two of them, on as many loops as asked for; leaving leaves nothing."""
    async with open_bus(f"hall://x?loops={shell[-1]}") as pair:
        assert pair.loops == int(shell[-1])
        assert len(hall.buses) == 2
        same = hall.buses[0].loop is hall.buses[1].loop
        assert same == (pair.loops == 1)
    assert hall.closed == 2
    assert not [t for t in threading.enumerate() if t.name == "remoting_bus I/O"]


async def test_loops_are_one_or_two(hall: Hall, shell: str) -> None:
    """Anything else is refused in words, and two where they are not possible."""
    with pytest.raises(ValueError, match="loops must be 1 or 2"):
        open_bus("hall://x?loops=3")
    if shell.startswith("trio"):
        with pytest.raises(ValueError, match="loops=2 is not possible"):
            async with open_bus("hall://x?loops=2"):
                pass


async def test_the_memory_bus_has_one_loop() -> None:
    """Its driver says so, and the core opens one connection."""
    with anyio.fail_after(TIME_LIMIT):
        async with (
            open_bus("memory://pair") as pair,
            Node(pair, "a", serve=echo) as a,
            Node(pair, "b", serve=echo),
        ):
            assert pair.loops == 1
            link = await a.connect("b")
            call = a_call("in memory")
            link.start(call)
            assert (await link.wait(call)).value == "in memory"


async def test_a_bus_out_of_reach_is_tried_again(
    hall: Hall, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning that says what is wrong."""
    hall.refuse.append(ConnectionFailed("nobody listens"))
    with caplog.at_level(logging.WARNING, "remoting_bus"):
        async with open_bus("hall://x?loops=1"):
            pass
    assert "nobody listens" in caplog.text


async def test_credentials_are_not_tried_again(hall: Hall) -> None:
    """What cannot get better is raised at once."""
    hall.refuse.append(ConnectionFailed("wrong password", final=True))
    with pytest.raises(ConnectionFailed, match="wrong password"):
        async with open_bus("hall://x"):
            pass


async def test_a_timeout_says_why(hall: Hall) -> None:
    """It ends in time, with what the last attempt found."""
    hall.refuse += [ConnectionFailed("nobody listens")] * 50
    with pytest.raises(ConnectionFailed, match=r"within 0\.05 s: nobody listens"):
        async with open_bus("hall://x", timeout=0.05):
            pass


async def test_entered_and_left_in_different_tasks(hall: Hall, shell: str) -> None:
    """As fixtures do."""
    bus = open_bus(f"hall://x?loops={shell[-1]}")
    pairs: list[Pair] = []

    async def enter() -> None:
        pairs.append(await bus.__aenter__())

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
    pairs[0].check()
    async with anyio.create_task_group() as group:
        group.start_soon(bus.__aexit__, None, None, None)
    assert hall.closed == 2
    with pytest.raises(ChannelClosed):
        pairs[0].check()


async def test_a_pair_is_a_plain_bus(hall: Hall) -> None:
    """Publish and consume go to the connection of calls."""
    got: list[tuple[bytes, Lane]] = []
    here = Address("ns", "here", "me")
    async with open_bus("hall://x?loops=1") as pair:
        async with pair.consume(
            here,
            [Lane.CALL],
            prefetch=1,
            deliver=lambda body, lane: got.append((body, lane)),
        ):
            await pair.publish(here, Lane.CALL, b"1")
            assert pair.try_publish(here, Lane.CALL, b"2")
            await anyio.wait_all_tasks_blocked()
        async with pair.link_events() as events:
            async for event in events:
                assert event.state == "up"
                break
    assert got == [(b"1", Lane.CALL), (b"2", Lane.CALL)]


async def test_the_bulk_connection_gone_breaks_the_bus(two: Opener) -> None:
    """Also where it lives in a thread: every call ends with that cause."""
    fire = RuntimeError("the bulk node has burnt down")

    async def forever(link: object, call: object) -> None:
        await anyio.sleep_forever()

    with pytest.raises(ChannelBroken):  # noqa: PT012 - it is raised on leaving
        async with two(forever) as t:
            call = a_call()
            t.link.start(call)
            while not t.b.pool.running:
                await anyio.lowlevel.checkpoint()
            t.hall.buses[1].tell(LinkEvent("failed", "burnt down", fire))
            outcome = await t.link.wait(call)
            assert outcome.kind is OutcomeKind.LOST
            cause = outcome.cause
            while cause is not None and cause is not fire:
                cause = cause.__cause__
            assert cause is fire
            t.b.links["a"].end(ChannelClosed("nobody answers its goodbye"))


async def test_the_bus_belongs_to_its_loop(hall: Hall, shell: str) -> None:
    """Another loop is refused by name."""
    refused: list[str] = []
    async with open_bus(f"hall://x?loops={shell[-1]}") as pair:

        def elsewhere() -> None:
            async def use() -> None:
                try:
                    pair.check()
                except LocalProtocolError as error:
                    refused.append(str(error))

            anyio.run(use)

        await anyio.to_thread.run_sync(elsewhere)
    assert "belongs to the event loop" in refused[0]


@pytest.mark.parametrize("shell", ["asyncio-2"], indirect=True)
async def test_a_blocked_loop_is_slow_and_not_silent(hall: Hall) -> None:
    """Its I/O thread answers beats while its own loop hangs in a system call."""
    ready, block, end = threading.Event(), threading.Event(), threading.Event()

    async def other() -> None:
        async with (
            open_bus("hall://x?loops=2") as pair,
            Node(pair, "b", serve=echo, heartbeat=0.2),
        ):
            ready.set()
            await anyio.to_thread.run_sync(block.wait)
            time.sleep(2)  # noqa: ASYNC251 - this is what the test is about
            await anyio.to_thread.run_sync(end.wait)

    thread = threading.Thread(target=anyio.run, args=(other,))
    thread.start()
    try:
        with anyio.fail_after(TIME_LIMIT):
            async with (
                open_bus("hall://x?loops=2") as pair,
                Node(pair, "a", serve=echo, heartbeat=0.2) as a,
            ):
                await anyio.to_thread.run_sync(ready.wait)
                link = await a.connect("b", timeout=5)
                call = a_call("both sides know the session now")
                link.start(call)
                await link.wait(call)
                kinds: list[str] = []
                resumed = anyio.Event()

                def changed(_: object, change: object) -> None:
                    kinds.append(getattr(change, "kind", ""))
                    if kinds[-1] == "resumed":
                        resumed.set()

                a.watch_links(changed)
                block.set()
                await resumed.wait()
                assert kinds == ["peer slow", "resumed"]
                await link.aclose()
                end.set()
    finally:
        block.set()
        end.set()
        await anyio.to_thread.run_sync(thread.join)


async def test_idle_links_cost_no_timers(hall: Hall, shell: str) -> None:
    """None on the side of bulk, and one each on the side of calls."""
    count = 200
    with anyio.fail_after(TIME_LIMIT):
        async with (
            open_bus(f"hall://x?loops={shell[-1]}") as pair,
            Node(pair, "hub", serve=echo) as hub,
        ):
            nodes = [Node(pair, f"n{i}", serve=echo) for i in range(count)]
            for node in nodes:
                await node.__aenter__()
            for node in nodes:
                await node.connect("hub")
            loop = current_loop()
            while len(hub.links) < count:
                await loop.turn()
            # The last acknowledgements are due within 25 ms.
            await anyio.sleep(0.1)
            lines = pair.statistics()
            assert lines["bulk"]["halves"] == 2 * count
            assert lines["bulk"]["timers"] == 0
            assert lines["calls"]["timers"] <= 2 * (2 * count + count + 1)
            async with anyio.create_task_group() as group:
                for node in nodes:
                    group.start_soon(node.aclose)


async def test_a_driver_is_found_and_imported_off_the_loop(
    hall: Hall, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That reads files: no call of this loop waits for the disk."""
    threads: list[int] = []

    def find(url: str) -> Hall:
        threads.append(threading.get_ident())
        return hall

    monkeypatch.setattr("remoting_bus.channel.pair.backend_for", find)
    async with open_bus(f"hall://here?loops={shell[-1]}"):
        pass
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()
