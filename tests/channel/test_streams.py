"""Streams over real loops: waiting, back-pressure, and what cancelling means."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from remoting_bus.channel.link import Link
from remoting_bus.channel.streams import ReceiveStream, SendStream, pipe
from remoting_bus.errors import ChannelClosed
from remoting_bus.protocol.calls import IncomingCall, OutcomeKind, OutgoingCall
from remoting_bus.protocol.codec import encode
from remoting_bus.protocol.ends import BUFFER, MAX_PIECE, Carried, Inlet, Outlet
from remoting_bus.protocol.terms import Phase

from .conftest import Opener, a_call

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


async def test_a_pipe_gives_back_what_was_put_in() -> None:
    """Bytes in order, then the end."""
    async with pipe() as (reader, writer):
        await writer.send(b"ab")
        await writer.send(b"cd")
        await writer.send_eof()
        assert [piece async for piece in reader] == [b"ab", b"cd"]
        with pytest.raises(anyio.ClosedResourceError):
            await writer.send(b"e")


async def test_a_short_read_leaves_the_rest() -> None:
    """max_bytes is kept, and nothing is lost by it."""
    async with pipe() as (reader, writer):
        await writer.send(b"abcdef")
        assert await reader.receive(4) == b"abcd"
        assert await reader.receive(4) == b"ef"
        with pytest.raises(ValueError, match="max_bytes"):
            await reader.receive(0)


async def test_a_writer_waits_for_its_reader() -> None:
    """It is at most a buffer and a piece ahead."""
    async with pipe() as (reader, writer):
        with anyio.move_on_after(0.05) as scope:
            await writer.send(b"x" * (4 * MIB))
        assert scope.cancelled_caught
        assert writer.outlet.written <= BUFFER + MAX_PIECE
        taken = writer.outlet.written
        got = 0
        while got < taken:
            got += len(await reader.receive())
        assert got == taken


async def test_a_cancelled_receive_took_nothing() -> None:
    """What comes at the moment of the cancel was returned, or is still there."""
    async with pipe() as (reader, writer), anyio.create_task_group() as group:
        scopes: list[anyio.CancelScope] = []
        got: list[bytes] = []

        async def reads() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                got.append(await reader.receive())

        group.start_soon(reads)
        await anyio.wait_all_tasks_blocked()
        writer.outlet.write_nowait(b"kept")
        scopes[0].cancel()
        await anyio.wait_all_tasks_blocked()
        await writer.send_eof()
        got += [piece async for piece in reader]
        assert got == [b"kept"]


async def test_two_readers_at_once_are_refused() -> None:
    """A stream has one reader and one writer at a time."""
    async with pipe() as (reader, writer), anyio.create_task_group() as group:
        group.start_soon(reader.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await reader.receive()
        await writer.send(b"x")


async def test_an_error_in_the_block_breaks_the_pipe() -> None:
    """The other end learns why; closing would have looked like the end."""
    with pytest.raises(RuntimeError):
        async with pipe() as (reader, writer):
            raise RuntimeError("no more")
    with pytest.raises(anyio.ClosedResourceError):
        await reader.receive()
    async with pipe() as (reader, writer):
        with pytest.raises(RuntimeError):
            async with writer:
                raise RuntimeError("no more")
        with pytest.raises(anyio.BrokenResourceError, match="no more"):
            await reader.receive()


async def drain(stream: ReceiveStream) -> int:
    """Read to the end; returns how much came."""
    return sum([len(piece) async for piece in stream])


def counting(sizes: list[int]):  # type: ignore[no-untyped-def]
    """Serve by reading the first stream to its end."""

    async def serve(link: Link, call: IncomingCall) -> None:
        end = call.streams[0]
        assert isinstance(end, Inlet)
        sizes.append(await drain(ReceiveStream(end)))
        link.returned(call, encode(sizes[-1]))

    return serve


async def test_bytes_go_to_the_function(two: Opener) -> None:
    """Ten MiB written while the function reads arrive, all of them."""
    async with two(counting([])) as t, pipe() as (reader, writer):
        call = OutgoingCall("f", encode([[], {}]), streams=[reader.inlet])
        t.link.start(call)
        for _ in range(40):
            await writer.send(b"x" * MAX_PIECE)
        await writer.send_eof()
        assert (await t.link.wait(call)).value == 40 * MAX_PIECE


async def test_bytes_come_from_the_function_before_its_result(two: Opener) -> None:
    """The result is not seen before the last byte can be read."""

    async def serve(link: Link, call: IncomingCall) -> None:
        end = call.streams[0]
        assert isinstance(end, Outlet)
        sender = SendStream(end)
        for _ in range(8):
            await sender.send(b"y" * MAX_PIECE)
        link.returned(call, encode("sent"))

    async with two(serve) as t, pipe() as (reader, writer):
        call = OutgoingCall("f", encode([[], {}]), streams=[writer.outlet])
        t.link.start(call)
        async with anyio.create_task_group() as group:
            sizes = []

            async def read() -> None:
                sizes.append(await drain(reader))

            group.start_soon(read)
            assert (await t.link.wait(call)).value == "sent"
            assert reader.inlet.arrived == 8 * MAX_PIECE
        assert sizes == [8 * MAX_PIECE]


async def test_a_slow_reader_stops_the_writer_far_away(two: Opener) -> None:
    """No more than the windows hold leaves the writer."""
    release = anyio.Event()

    async def serve(link: Link, call: IncomingCall) -> None:
        await release.wait()
        await counting([])(link, call)

    async with two(serve) as t, pipe() as (reader, writer):
        call = OutgoingCall("f", encode([[], {}]), streams=[reader.inlet])
        t.link.start(call)
        with anyio.move_on_after(0.2) as scope:
            await writer.send(b"x" * (16 * MIB))
        assert scope.cancelled_caught
        assert writer.outlet.written <= MIB
        written = writer.outlet.written
        release.set()
        await writer.send_eof()
        assert (await t.link.wait(call)).value == written


async def test_a_reset_reaches_the_far_reader(two: Opener) -> None:
    """With its reason, as anyio's broken resource."""
    seen: list[str] = []

    async def serve(link: Link, call: IncomingCall) -> None:
        end = call.streams[0]
        assert isinstance(end, Inlet)
        with pytest.raises(anyio.BrokenResourceError) as raised:
            await ReceiveStream(end).receive()
        seen.append(str(raised.value))
        link.returned(call, encode(None))

    async with two(serve) as t, pipe() as (reader, writer):
        call = OutgoingCall("f", encode([[], {}]), streams=[reader.inlet])
        t.link.start(call)
        while call.number is None:
            await anyio.lowlevel.checkpoint()
        writer.reset("changed my mind")
        await t.link.wait(call)
        assert seen == ["changed my mind"]


async def test_streams_break_with_their_session(two: Opener) -> None:
    """A waiting writer is woken with the cause."""

    async def serve(link: Link, call: IncomingCall) -> None:
        await anyio.sleep_forever()

    async with two(serve) as t, pipe() as (reader, writer):
        call = OutgoingCall("f", encode([[], {}]), streams=[reader.inlet])
        t.link.start(call)
        async with anyio.create_task_group() as group:

            async def write() -> None:
                with pytest.raises(anyio.BrokenResourceError, match="on purpose"):
                    await writer.send(b"x" * (16 * MIB))

            group.start_soon(write)
            while not writer.outlet.written:
                await anyio.lowlevel.checkpoint()
            t.link.end(ChannelClosed("on purpose"))
            t.b.links["a"].end(ChannelClosed("the peer does not hear of the other end"))
        assert (await t.link.wait(call)).kind is OutcomeKind.CANCELLED
        assert t.link.phase is Phase.OVER


async def test_a_job_runs_where_the_bytes_are(two: Opener, shell: str) -> None:
    """`carry` on both sides: a file's bytes never cross to the caller's loop."""
    import threading

    threads: list[threading.Thread] = []

    async def read(stream: ReceiveStream) -> int:
        threads.append(threading.current_thread())
        return await drain(stream)

    async def serve(link: Link, call: IncomingCall) -> None:
        end = call.streams[0]
        assert isinstance(end, Carried)
        link.returned(call, encode(await link.carry(end, read)))

    async def write(stream: SendStream, report) -> str:  # type: ignore[no-untyped-def]
        threads.append(threading.current_thread())
        for number in range(20):
            await stream.send(b"z" * MAX_PIECE)
            report(number)
        return "written"

    async with two(serve, carried=lambda name: name == "put") as t:
        reports: list[int] = []
        end = Carried("send", t.link.new_carried_token())
        call = OutgoingCall("put", encode([[], {}]), streams=[end])
        t.link.start(call)
        assert await t.link.carry(end, write, progress=reports.append) == "written"
        assert (await t.link.wait(call)).value == 20 * MAX_PIECE
        assert reports[-1] == 19
        here = threading.current_thread()
        assert [each is here for each in threads] == [shell[-1] == "1"] * 2


async def test_a_job_that_raises_resets_its_stream(two: Opener) -> None:
    """The error is raised here, and the far reader hears of it."""
    heard: list[str] = []

    async def serve(link: Link, call: IncomingCall) -> None:
        end = call.streams[0]
        assert isinstance(end, Inlet)
        try:
            await drain(ReceiveStream(end))
        except anyio.BrokenResourceError as error:
            heard.append(str(error))
        link.returned(call, encode(None))

    async def fail(stream: SendStream) -> None:
        await stream.send(b"some")
        raise OSError(28, "No space left on device")

    async with two(serve) as t:
        end = Carried("send", t.link.new_carried_token())
        call = OutgoingCall("put", encode([[], {}]), streams=[end])
        t.link.start(call)
        with pytest.raises(OSError, match="No space"):
            await t.link.carry(end, fail)
        await t.link.wait(call)
        assert "No space left" in heard[0]


async def test_carrying_ends_with_its_session(two: Opener) -> None:
    """A stream that never began is waited for no longer."""
    async with two() as t:
        end = Carried("send", t.link.new_carried_token())

        async def job(stream: SendStream) -> None:
            raise AssertionError("it began")

        async with anyio.create_task_group() as group:

            async def carry() -> None:
                with pytest.raises(Exception, match="ended before the stream"):
                    await t.link.carry(end, job)

            group.start_soon(carry)
            await anyio.wait_all_tasks_blocked()
            call = a_call("settles the crossing")
            t.link.start(call)
            await t.link.wait(call)
            await t.link.aclose()
