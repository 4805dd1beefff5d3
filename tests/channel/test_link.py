"""Calls over real loops: only what a shell can break."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from remoting_bus._loop import clock
from remoting_bus.bus.backend import LinkEvent
from remoting_bus.channel.link import Link
from remoting_bus.errors import ChannelBroken, ChannelClosed
from remoting_bus.names import Lane
from remoting_bus.protocol.calls import IncomingCall, OutcomeKind, RefusalCode
from remoting_bus.protocol.codec import encode
from remoting_bus.protocol.terms import Phase

from .conftest import Opener, a_call, echo

pytestmark = pytest.mark.anyio


async def forever(link: Link, call: IncomingCall) -> None:
    """Run until cancelled, and say so."""
    try:
        await anyio.sleep_forever()
    finally:
        link.cancelled_done(call, ran=True, message="it was stopped in its sleep")


async def test_calls_go_both_ways(two: Opener) -> None:
    """One link serves calls of either side."""
    async with two() as t:
        call = a_call("there")
        t.link.start(call)
        assert (await t.link.wait(call)).value == "there"
        back = t.b.links["a"]
        call = a_call("back")
        back.start(call)
        assert (await back.wait(call)).value == "back"


async def test_a_thousand_calls_share_envelopes(two: Opener) -> None:
    """What is started in one turn goes out together."""
    async with two() as t:
        calls = [a_call(number) for number in range(1000)]
        before = len(t.hall.buses[0].published)
        for call in calls:
            t.link.start(call)
        for number, call in enumerate(calls):
            assert (await t.link.wait(call)).value == number
        sent = t.hall.buses[0].published[before:]
        assert sum(lane is Lane.CALL for _, lane, _ in sent) < 20


async def test_a_single_call_goes_out_in_the_callers_turn(two: Opener) -> None:
    """Nothing waits for the loop where nothing is under way."""
    async with two() as t:
        await anyio.wait_all_tasks_blocked()
        before = len(t.hall.buses[0].published)
        call = a_call(1)
        t.link.start(call)
        assert len(t.hall.buses[0].published) == before + 1
        assert call.number is not None
        await t.link.wait(call)


async def test_calls_go_on_where_the_bus_must_be_waited_for(two: Opener) -> None:
    """A driver that never publishes at once is served by writers."""
    async with two() as t:
        for bus in t.hall.buses:
            bus.slow = True
        calls = [a_call(number) for number in range(100)]
        for call in calls:
            t.link.start(call)
        for number, call in enumerate(calls):
            assert (await t.link.wait(call)).value == number


async def test_a_cancelled_wait_leaves_the_call(two: Opener) -> None:
    """The waiter is gone, the call is not; it can be waited for again."""
    release = anyio.Event()

    async def serve(link: Link, call: IncomingCall) -> None:
        await release.wait()
        await echo(link, call)

    async with two(serve) as t:
        call = a_call("still here")
        t.link.start(call)
        with anyio.move_on_after(0.01) as scope:
            await t.link.wait(call)
        assert scope.cancelled_caught
        release.set()
        assert (await t.link.wait(call)).value == "still here"


async def test_a_cancel_reaches_the_handler_and_is_acknowledged(two: Opener) -> None:
    """The outcome says what became of the work."""
    async with two(forever) as t:
        call = a_call()
        t.link.start(call)
        while not t.b.pool.running:
            await anyio.lowlevel.checkpoint()
        t.link.cancel(call)
        outcome = await t.link.wait(call)
        assert outcome.kind is OutcomeKind.CANCELLED
        assert "in its sleep" in outcome.message
        assert t.b.pool.running == 0


async def test_a_deadline_passes_on_both_sides(two: Opener) -> None:
    """The caller is free in time, and the work is stopped."""
    async with two(forever) as t:
        call = a_call(deadline=clock() + 0.1)
        t.link.start(call)
        assert (await t.link.wait(call)).kind is OutcomeKind.TIMED_OUT
        await t.b.pool.wait_idle()


async def test_progress_is_seen_before_the_result(two: Opener) -> None:
    """Reports wake the one who waits for them."""
    go_on = anyio.Event()

    async def serve(link: Link, call: IncomingCall) -> None:
        link.progress(call, encode([1, 2, "half"]))
        await go_on.wait()
        link.returned(call, encode(None))

    async with two(serve) as t:
        call = a_call()
        t.link.start(call)
        assert await t.link.wait_progress(call)
        assert call.progress == [1, 2, "half"]
        go_on.set()
        assert not await t.link.wait_progress(call)


async def test_a_cut_link_heals_and_the_call_ends(two: Opener) -> None:
    """A call under way survives an outage of both connections."""
    release = anyio.Event()
    ran = 0

    async def serve(link: Link, call: IncomingCall) -> None:
        nonlocal ran
        ran += 1
        await release.wait()
        await echo(link, call)

    async with two(serve) as t:
        changes: list[str] = []
        suspended = anyio.Event()

        def changed(link: Link, change: object) -> None:
            changes.append(getattr(change, "kind", ""))
            if link.phase is Phase.SUSPENDED:
                suspended.set()

        t.a.watch_links(changed)
        call = a_call("kept")
        t.link.start(call)
        while not ran:
            await anyio.lowlevel.checkpoint()
        for pair in t.hall.buses:
            pair.tell(LinkEvent("down", "by a test"))
        await suspended.wait()
        release.set()
        for pair in t.hall.buses:
            pair.tell(LinkEvent("up", "by a test"))
        assert (await t.link.wait(call)).value == "kept"
        assert ran == 1
        assert changes == ["link down", "resumed"]


async def test_leaving_says_goodbye_at_once(two: Opener) -> None:
    """The peer sees the link closed, not lost, and nobody waits for a timer."""
    async with two() as t:
        seen: list[str] = []
        t.b.watch_links(lambda link, change: seen.append(change.kind))
        with anyio.fail_after(2):
            await t.link.aclose("done")
        assert t.link.phase is Phase.OVER
        assert "closed" in seen
        assert not t.a.links
        assert not t.b.links
        with pytest.raises(ChannelClosed):
            t.link.start(a_call())


async def test_calls_end_when_the_bus_is_gone_for_good(two: Opener) -> None:
    """Every call is lost at once with the cause, and leaving says it again."""
    fire = RuntimeError("the broker has burnt down")
    with pytest.raises(ChannelBroken) as raised:  # noqa: PT012 - it is raised on leaving
        async with two(forever) as t:
            call = a_call()
            t.link.start(call)
            while not t.b.pool.running:
                await anyio.lowlevel.checkpoint()
            t.hall.buses[0].tell(LinkEvent("failed", "burnt down", fire))
            outcome = await t.link.wait(call)
            assert outcome.kind is OutcomeKind.LOST
            assert isinstance(outcome.cause, ChannelBroken)
            assert outcome.cause.__cause__ is fire
            with pytest.raises(ChannelBroken):
                t.link.start(a_call())
            with pytest.raises(ChannelBroken):
                await t.a.connect("c")
            # It would wait for an answer to its goodbye.
            t.b.links["a"].end(ChannelClosed("by the test"))
    assert "burnt down" in str(raised.value)


async def test_more_calls_than_wait_are_refused(two: Opener) -> None:
    """The refusal names the limits."""
    async with two(forever, workers=2, waiting=3) as t:
        calls = [a_call() for _ in range(6)]
        for call in calls:
            t.link.start(call)
        outcome = await t.link.wait(calls[5])
        assert outcome.kind is OutcomeKind.REFUSED
        assert outcome.code is RefusalCode.OVERLOADED
        assert "workers=2" in outcome.message
        assert "waiting=3" in outcome.message
