"""Generators, pipes, files of sync functions and named streams, over the memory bus."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import pytest

import remoting_bus as rb
from remoting_bus.protocol import ends

pytestmark = pytest.mark.anyio


@dataclasses.dataclass
class Row:
    number: int


@asynccontextmanager
async def between(*functions: Callable[..., Any]) -> AsyncIterator[rb.Channel]:
    """Give a channel whose peer serves the functions."""
    for each in functions:
        rb.command(each.__name__)(each)
    commands = {each.__name__: each for each in functions}
    async with (
        rb.open_bus("memory://streaming") as bus,
        rb.Channel(bus, local="b", peer="a", commands=commands),
        rb.Channel(bus, local="a", peer="b") as channel,
    ):
        with anyio.fail_after(20):
            yield channel


async def rows(count: int) -> AsyncIterator[Row]:
    for number in range(count):
        yield Row(number)


def rows_in_thread(count: int) -> Iterator[Row]:
    assert threading.current_thread() is not threading.main_thread()
    for number in range(count):
        yield Row(number)


async def fails_after(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number
    raise ValueError("enough")


def fails_after_in_thread(count: int) -> Iterator[int]:
    yield from range(count)
    raise ValueError("enough")


async def _read(
    stream: AbstractAsyncContextManager[AsyncIterator[Any]], seen: list[Any]
) -> None:
    async with stream as items:
        async for each in items:
            seen.append(each)  # noqa: PERF401 - what came is kept when it raises


@pytest.mark.parametrize("function", [rows, rows_in_thread])
async def test_all_items_come_in_order_as_annotated(function: Any) -> None:
    async with between(function) as channel:
        async with channel.stream(function, 5000) as items:
            assert [each async for each in items] == [Row(n) for n in range(5000)]
        async with channel.stream(function.__name__, 2) as plain:
            assert [each async for each in plain] == [{"number": 0}, {"number": 1}]
        async with channel.stream(function, 0) as items:
            assert [each async for each in items] == []


@pytest.mark.parametrize("function", [fails_after, fails_after_in_thread])
async def test_all_items_come_before_what_the_generator_raised(function: Any) -> None:
    async with between(function) as channel:
        seen: list[int] = []
        with pytest.raises(ValueError, match="enough") as caught:
            await _read(channel.stream(function, 300), seen)
        assert seen == list(range(300))
        assert "fails_after" in caught.value.__notes__[-1]


async def test_leaving_ends_the_generator() -> None:
    ended = anyio.Event()
    loop_ended = threading.Event()

    async def forever() -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            ended.set()

    def forever_in_thread() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1000)
        finally:
            loop_ended.set()
            anyio.from_thread.run_sync(ended.set)

    async with between(forever, forever_in_thread) as channel:
        async with channel.stream(forever) as items:
            async for each in items:
                if each == 10:
                    break
        await ended.wait()
        ended = anyio.Event()
        async with channel.stream(forever_in_thread) as pieces:
            async for _ in pieces:
                break
        await ended.wait()
        assert loop_ended.is_set()


async def test_a_slow_reader_holds_the_generator_up() -> None:
    made = 0

    async def large() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(400):
            made += 1
            yield bytes(64 * 1024)

    async with between(large) as channel, channel.stream(large) as items:
        first = await anext(items)
        assert len(first) == 64 * 1024
        await anyio.wait_all_tasks_blocked()
        assert made < 300
        count = 1
        async for _ in items:
            count += 1
        assert count == 400


async def test_an_item_that_cannot_be_sent_is_named() -> None:
    async def bad() -> AsyncIterator[Any]:
        yield 1
        yield [object()]

    async with between(bad) as channel:
        seen: list[int] = []
        with pytest.raises(rb.CallRefused, match=r"item 1\[0\]: .*The call ran"):
            await _read(channel.stream(bad), seen)
        assert seen == [1]


async def test_an_item_that_is_not_as_annotated_is_named() -> None:
    async def lies() -> AsyncIterator[Row]:
        yield {"number": "x"}  # type: ignore[misc]

    async with between(lies) as channel:
        with pytest.raises(rb.CallRefused, match=r"an item\.number: Expected int"):
            await _read(channel.stream(lies), [])


async def test_a_failure_before_the_first_item_is_raised_on_leaving() -> None:
    async with between(rows) as channel:
        with pytest.raises(rb.CallRefused, match="not known"):
            await _read(channel.stream("nobody"), [])


async def write(out: anyio.abc.ByteSendStream, count: int) -> int:
    for _ in range(count):
        await out.send(bytes(100_000))
    return count


async def digest(data: anyio.abc.ByteReceiveStream) -> str:
    found = hashlib.sha256()
    async for piece in data:
        found.update(piece)
    return found.hexdigest()


async def write_and_fail(out: Any) -> None:
    await out.send(b"begun")
    raise ValueError("broken")


async def test_a_function_writes_into_a_pipe_of_its_callers() -> None:
    async with between(write) as channel, rb.pipe() as (reader, writer):
        async with channel.start(write, writer, 30) as call:
            size = 0
            async for chunk in reader:
                size += len(chunk)
            assert await call.result() == 30
        assert size == 3_000_000


async def test_a_function_reads_from_a_pipe_of_its_callers() -> None:
    data = os.urandom(3_000_000)
    async with between(digest) as channel, rb.pipe() as (reader, writer):
        async with channel.start(digest, reader) as call:
            await writer.send(data)
            await writer.aclose()
            assert await call.result() == hashlib.sha256(data).hexdigest()


async def test_a_function_that_raises_breaks_its_pipe() -> None:
    async with between(write_and_fail) as channel, rb.pipe() as (reader, writer):
        async with channel.start(write_and_fail, writer) as call:
            with pytest.raises(anyio.BrokenResourceError):
                async for _ in reader:
                    pass
            with pytest.raises(ValueError, match="broken"):
                await call.result()


@dataclasses.dataclass
class Job:
    name: str
    outs: list[anyio.abc.ByteSendStream]


async def in_depth(job: Job) -> None:
    for number, out in enumerate(job.outs):
        await out.send(f"{job.name}{number}".encode())


async def test_streams_travel_inside_of_values() -> None:
    async with between(in_depth) as channel:
        async with rb.pipe() as (first, one), rb.pipe() as (second, two):
            await channel.call(in_depth, Job("x", [one, two]))
            assert await first.receive() == b"x0"
            assert await second.receive() == b"x1"


async def test_a_refused_call_breaks_the_streams_it_carried() -> None:
    async with between(digest) as channel, rb.pipe() as (reader, writer):
        with pytest.raises(rb.CallRefused):
            await channel.call("nobody", reader)
        with pytest.raises(anyio.BrokenResourceError):
            await writer.send(bytes(10_000_000))


def pack(where: str, out: anyio.abc.ByteSendStream) -> None:
    with rb.as_file(out) as file, tarfile.open(fileobj=file, mode="w|") as archive:
        archive.add(where, "top")


def unpack(data: anyio.abc.ByteReceiveStream) -> dict[str, int]:
    with rb.as_file(data) as file, tarfile.open(fileobj=file, mode="r|") as archive:
        return {each.name: each.size for each in archive}


def pack_and_fail(out: anyio.abc.ByteSendStream) -> str:
    try:
        with rb.as_file(out) as file:
            file.write(b"half")
            raise ValueError("disk")
    except ValueError:
        return "caught"


async def test_a_sync_function_writes_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(500_000))
    async with between(pack) as channel, rb.pipe() as (reader, writer):
        async with channel.start(pack, str(tmp_path), writer):
            data = b"".join([chunk async for chunk in reader])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["top", "top/a"]


async def test_a_sync_function_reads_an_archive() -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        info = tarfile.TarInfo("x")
        info.size = 400_000
        archive.addfile(info, io.BytesIO(bytes(400_000)))
    async with between(unpack) as channel, rb.pipe() as (reader, writer):
        async with channel.start(unpack, reader) as call:
            await writer.send(made.getvalue())
            await writer.aclose()
            assert await call.result() == {"x": 400_000}


async def test_half_a_file_is_not_taken_for_the_whole() -> None:
    async with between(pack_and_fail) as channel, rb.pipe() as (reader, writer):
        async with channel.start(pack_and_fail, writer) as call:
            with pytest.raises(anyio.BrokenResourceError, match="ValueError: disk"):
                async for _ in reader:
                    pass
            assert await call.result() == "caught"


async def test_a_file_is_made_of_streams_of_one_direction_only() -> None:
    with pytest.raises(TypeError, match="takes a byte stream"):
        rb.as_file(3)  # type: ignore[call-overload]


def makes(count: int) -> dict[str, Any]:
    return {"count": count}


async def test_a_result_may_carry_streams() -> None:
    async def give() -> dict[str, Any]:
        inlet, outlet = ends.pipe()
        outlet.write_nowait(b"hello")
        outlet.finish()
        return {"data": inlet}

    async with between(give) as channel:
        found = await channel.call(give)
        assert await found["data"].receive() == b"hello"
        with pytest.raises(anyio.EndOfStream):
            await found["data"].receive()


async def test_streams_are_opened_by_name_in_both_directions() -> None:
    async with rb.open_bus("memory://named") as bus:
        a = rb.Channel(bus, local="a", peer="b")
        b = rb.Channel(bus, local="b", peer="a")
        async with a, b, anyio.create_task_group() as group:

            async def serve() -> None:
                async for name, stream in b.incoming_streams():
                    assert name == "upload"
                    async with stream:
                        async for piece in stream:
                            await stream.send(piece.upper())
                    break

            with anyio.fail_after(20):
                group.start_soon(serve)
                stream = await a.open_stream("upload")
                await stream.send(b"hello")
                assert await stream.receive() == b"HELLO"
                await stream.send_eof()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()


async def test_statistics_are_there() -> None:
    async with between(makes) as channel:
        assert channel.statistics() == {}
        await channel.call(makes, 1)
        assert channel.statistics()["phase"] == "open"
