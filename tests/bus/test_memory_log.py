"""The memory driver's logs: exact retention, outages, notes; and the values of logs."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from remoting_bus.bus import LogReader, Retention
from remoting_bus.bus.log import check_start
from remoting_bus.bus.memory import MemoryBackend, memory_broker
from remoting_bus.bus.memory_log import RECORD_COST, MemoryLog
from remoting_bus.errors import ChannelBroken
from remoting_bus.names import LogName

pytestmark = pytest.mark.anyio

LOG = LogName("ns", "log")

_numbers = itertools.count()


def new_url() -> str:
    return f"memory://logs-{next(_numbers)}"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 5, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


async def bodies(reader: LogReader, count: int) -> list[bytes]:
    with anyio.fail_after(5):
        return [(await anext(reader)).body for _ in range(count)]


def kept(log: MemoryLog) -> list[int]:
    return list(range(log.first, log.end))


async def test_the_oldest_go_when_there_are_too_many_bytes() -> None:
    """Body, key and a cost for each record count; the newest always stays."""
    log = MemoryLog(Retention(max_bytes=10 * (RECORD_COST + 4), max_age=60), Clock())
    for _ in range(25):
        log.append("key", b"x")
    assert kept(log) == list(range(16, 26))
    log.append("key", bytes(5000))
    assert kept(log) == [26]


async def test_the_oldest_go_when_they_are_too_old() -> None:
    """Nothing has to be appended for that."""
    clock = Clock()
    log = MemoryLog(Retention(max_bytes=10**6, max_age=60), clock)
    log.append("key", b"1")
    clock.pass_(40)
    log.append("key", b"2")
    clock.pass_(20)
    assert kept(log) == [1, 2]
    clock.pass_(1)
    assert kept(log) == [2]
    clock.pass_(100)
    assert kept(log) == []
    assert log.place_of("first") == log.place_of("next") == 3


async def test_a_time_is_found_though_the_clock_goes_back() -> None:
    """Times rise along the log, so that searching by them is right."""
    clock = Clock()
    log = MemoryLog(Retention(), clock)
    began = clock.now
    for seconds in (10, 10, -15, 10):
        clock.pass_(seconds)
        log.append("key", b"")
    times = [
        (record.time - began).seconds
        for record in (log.at(position) for position in kept(log))
        if record is not None
    ]
    assert times == [10, 20, 20, 20]
    found = [log.place_of(began + timedelta(seconds=s)) for s in (0, 10, 11, 20, 21)]
    assert found == [1, 1, 2, 2, 5]


async def test_a_reader_waits_out_an_outage_and_goes_on_where_it_was() -> None:
    """What was appended by others meanwhile is read; appends of its own link fail."""
    url = new_url()
    backend = MemoryBackend()
    async with backend.open(url) as here, backend.open(url) as there:
        async with there.read(LOG, "first") as reader:
            await here.append(LOG, "a", b"1")
            assert await bodies(reader, 1) == [b"1"]
            link = memory_broker(url.removeprefix("memory://")).links[1]
            link.cut()
            await here.append(LOG, "a", b"2")
            with pytest.raises(ChannelBroken, match="cut by a test"):
                await there.append(LOG, "b", b"3")
            with anyio.move_on_after(0.02) as scope:
                await anext(reader)
            assert scope.cancelled_caught
            link.heal()
            assert await bodies(reader, 1) == [b"2"]
            assert (reader.lost, reader.restarted) == (0, 0)


async def test_appending_and_beginning_to_read_wait_for_the_link() -> None:
    """A blocked link takes no appends for now; a cut one gives no places."""
    url = new_url()
    async with MemoryBackend().open(url) as bus:
        link = memory_broker(url.removeprefix("memory://")).links[0]
        link.block()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.append, LOG, "a", b"1")
            await anyio.wait_all_tasks_blocked()
            async with bus.read(LOG, "first") as reader:
                link.unblock()
                assert await bodies(reader, 1) == [b"1"]
        link.cut()
        read: list[bytes] = []

        async def begin() -> None:
            async with bus.read(LOG, "first") as reader:
                read.extend(await bodies(reader, 1))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(begin)
            await anyio.wait_all_tasks_blocked()
            assert not read
            link.heal()
        assert read == [b"1"]


async def test_a_log_that_keeps_something_else_is_told_of_once() -> None:
    """It is used as it is; the note says what it keeps and what to do."""
    url = new_url()
    backend = MemoryBackend()
    async with (
        backend.open(url) as one,
        backend.open(url + "?log_bytes=2000000&log_age=5") as other,
        other.link_events() as events,
    ):
        await one.append(LOG, "a", b"1")
        for _ in range(3):
            await other.append(LOG, "a", b"2")
        async with other.read(LOG, "first") as reader:
            assert await bodies(reader, 4) == [b"1", b"2", b"2", b"2"]
        with anyio.move_on_after(0.02):
            told = [await anext(events)]
            told.append(await anext(events))
            told.append(await anext(events))
        assert [event.state for event in told] == ["up", "note"]
        assert "ns/log" in told[1].cause
        assert f"{Retention().max_bytes} bytes" in told[1].cause
        async with other.link_events() as later:
            assert (await anext(later)).state == "up"


async def test_readers_of_a_full_log_hold_nothing() -> None:
    """What retention takes from under a slow reader is counted, not kept for it."""
    url = new_url()
    async with MemoryBackend().open(url + "?log_bytes=1048576") as bus:
        async with bus.read(LOG, "next") as reader:
            for number in range(40):
                await bus.append(LOG, "a", b"%d" % number + bytes(65536))
            first = await anext(reader)
            assert reader.lost == 25
            assert first.position == 26
            assert first.body.startswith(b"25")


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("log_bytes=1000", "at least 1048576"),
        ("log_bytes=many", "whole number"),
        ("log_age=0", "at least 1"),
    ],
)
async def test_what_a_log_keeps_is_checked_in_the_url(option: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        async with MemoryBackend().open(f"{new_url()}?{option}"):
            pass


@pytest.mark.parametrize(
    ("start", "error", "words"),
    [
        ("last", ValueError, "a position or a time, not 'last'"),
        (-1, ValueError, "no position -1"),
        (datetime(2026, 1, 1), ValueError, "no time zone"),  # noqa: DTZ001 - a bad one
        (True, TypeError, "not bool"),
        (None, TypeError, "not NoneType"),
    ],
)
async def test_a_bad_place_is_refused_in_words(
    start: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_start(start)


async def test_a_log_has_names_like_everything_else() -> None:
    with pytest.raises(ValueError, match="name of a log 'a/b' is not allowed"):
        LogName("ns", "a/b")
    with pytest.raises(ValueError, match="namespace"):
        LogName("", "a")
