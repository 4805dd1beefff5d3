"""The promises of `remoting_bus.bus.backend` about durable logs, one check each.

They are tried where `limits.durable_log` is true; where it is not, the first of them
asks that the driver says so by name. Each check has logs of its own, which are deleted
after it. Records that come twice are never held against a driver. Next: `promises`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel

from remoting_bus.bus import Bus, LogReader, LogStart, Record
from remoting_bus.bus.urls import split_option
from remoting_bus.errors import LimitExceeded, RemotingError, Unsupported
from remoting_bus.names import MAX_NAME_LENGTH, LogName

from .probe import QUIET, Probe, expect
from .promise import promise
from .promises import BURST, UNDER_WAY, numbered

__all__: list[str] = []

CLEANUP = 5.0
"""Seconds for deleting a promise's logs; a broken driver may never end."""

TICK = 0.02
"""Seconds between records whose times have to differ: some brokers count milliseconds."""

PIECE = 64 * 1024
"""Bytes of a record where a log is to be filled."""


class _Shelf:
    """One promise's connections and logs.

    Attributes:
        writer: A connection.
        reader: Another one.
    """

    def __init__(self, probe: Probe, writer: Bus, reader: Bus) -> None:
        self.probe = probe
        self.writer = writer
        self.reader = reader
        self.made: dict[LogName, None] = {}

    def log(self, name: str = "log", namespace: str | None = None) -> LogName:
        """Return a log that is deleted in the end."""
        log = LogName(namespace or self.probe.namespace, name)
        self.made[log] = None
        return log

    async def fill(
        self, bodies: Sequence[bytes], log: LogName | None = None, key: str = "key"
    ) -> None:
        """Append one after the other."""
        self.probe.progress = "appending"
        for body in bodies:
            await self.writer.append(log or self.log(), key, body)

    async def until(self, reader: LogReader, bodies: Sequence[bytes]) -> list[Record]:
        """Read until all of these came; return what came first of each."""
        missing = set(bodies)
        came: dict[bytes, Record] = {}
        while missing:
            self.probe.progress = (
                f"waiting for {len(missing)} of {len(set(bodies))} records"
            )
            record = await anext(reader)
            missing.discard(record.body)
            came.setdefault(record.body, record)
        self.probe.progress = "trying"
        return list(came.values())

    async def all_of(
        self, bodies: Sequence[bytes], start: LogStart = "first"
    ) -> list[Record]:
        """Read these in a reading of their own."""
        async with self.reader.read(self.log(), start) as reader:
            return await self.until(reader, bodies)

    async def none_more(self, reader: LogReader, last: bytes, what: str) -> None:
        """See to it that nothing but repetitions of the last one comes now."""
        with anyio.move_on_after(QUIET):
            while True:
                record = await anext(reader)
                expect(record.body == last, f"{record.body[:20]!r} came {what}")


_LogCheck = Callable[[_Shelf], Awaitable[None]]


def _log_promise(name: str, text: str) -> Callable[[_LogCheck], _LogCheck]:
    def enter(check: _LogCheck) -> _LogCheck:
        @promise(name, text)
        async def where_there_are_logs(probe: Probe) -> None:
            async with _shelf(probe) as shelf:
                if shelf.writer.limits.durable_log:
                    await check(shelf)

        return check

    return enter


@asynccontextmanager
async def _shelf(probe: Probe) -> AsyncGenerator[_Shelf, None]:
    async with probe.two() as (writer, reader):
        shelf = _Shelf(probe, writer, reader)
        try:
            yield shelf
        finally:
            with anyio.move_on_after(CLEANUP, shield=True):
                for log in shelf.made:
                    with suppress(RemotingError):  # "log-delete" is about that
                        await writer.delete_log(log)


def _bodies(records: Sequence[Record]) -> list[bytes]:
    return [record.body for record in records]


@promise("log-unsupported", "Unsupported: this bus has no durable log")
async def _unsupported(probe: Probe) -> None:
    log = LogName(probe.namespace, "log")
    async with probe.backend.open(probe.url) as bus:
        if bus.limits.durable_log:
            return

        async def read() -> None:
            async with bus.read(log, "first"):
                pass

        async def append() -> None:
            await bus.append(log, "key", b"body")

        async def delete() -> None:
            await bus.delete_log(log)

        for attempt in (append, read, delete):
            try:
                await attempt()
            except Unsupported as error:
                limit = error.limit
                expect(limit == "durable_log", f"Unsupported names {limit!r}")
            else:
                raise AssertionError(f"{attempt.__name__} was done without a log")


@_log_promise("log-replay", "A log is replayed in the order in which it was written")
async def _replay(shelf: _Shelf) -> None:
    every_byte = bytes(range(256)) * 1000
    bodies = [b"", b"\x00", every_byte, *numbered(50)]
    await shelf.fill(bodies, key="one")
    await shelf.fill([b"end"], key="two-_2")
    replays = [await shelf.all_of([*bodies, b"end"]) for _ in range(2)]
    first, second = replays
    expect(_bodies(first) == [*bodies, b"end"], "records came disordered or changed")
    expect(first == second, "a second reader saw other records")
    keys = [record.key for record in first]
    expect(keys == ["one"] * len(bodies) + ["two-_2"], f"keys came as {set(keys)}")
    places = [record.position for record in first]
    expect(places == sorted(set(places)), f"positions do not rise: {places}")
    for record in first:
        expect(type(record.body) is bytes, "a body is not bytes")
        zone = record.time.utcoffset()
        expect(zone == timedelta(0), f"a time is not in UTC: {record.time!r}")
        age = abs(datetime.now(UTC) - record.time)
        expect(age < timedelta(hours=1), f"a time is not the present: {record.time}")


@_log_promise("log-next", "What is appended after `read` was entered is read")
async def _next(shelf: _Shelf) -> None:
    await shelf.fill([b"before"])
    for number in range(5):
        body = b"%d" % number
        async with shelf.reader.read(shelf.log(), "next") as reader:
            await shelf.fill([body])
            records = await shelf.until(reader, [body])
            expect(_bodies(records) == [body], "an older record came, too")


@_log_promise("log-position", "Reading begins with the record at a position")
async def _position(shelf: _Shelf) -> None:
    bodies = numbered(20)
    await shelf.fill(bodies)
    records = await shelf.all_of(bodies)
    for number in (0, 1, 12, 19):
        came = await shelf.all_of(bodies[number:], records[number].position)
        expect(came == records[number:], f"from record {number} came {_bodies(came)}")
    async with shelf.reader.read(shelf.log(), records[-1].position + 1) as reader:
        await shelf.none_more(reader, bodies[-1], "after the last one")
        await shelf.fill([b"new"])
        came = await shelf.until(reader, [b"new"])
        expect(reader.lost == 0, f"{reader.lost} records were called lost")
        expect(reader.restarted == 0, "the log was called another one")
    expect(b"0" not in _bodies(came), "an old record came")


@_log_promise("log-time", "Reading begins with the first record not older than a time")
async def _time(shelf: _Shelf) -> None:
    bodies = numbered(12)
    for body in bodies:
        await shelf.fill([body])
        await anyio.sleep(TICK)
    records = await shelf.all_of(bodies)
    for number in (0, 5, 11):
        start = records[number].time
        wanted = [record for record in records if record.time >= start]
        came = await shelf.all_of(_bodies(wanted), start)
        expect(came == wanted, f"from the time of record {number} came {_bodies(came)}")
    await anyio.sleep(TICK)
    later = records[-1].time + timedelta(seconds=TICK / 2)
    async with shelf.reader.read(shelf.log(), later) as reader:
        await shelf.fill([b"new"])
        came = await shelf.until(reader, [b"new"])
        expect(_bodies(came) == [b"new"], f"from a later time came {_bodies(came)}")
    ago = datetime(2001, 1, 1, tzinfo=UTC)
    came = await shelf.all_of([*bodies, b"new"], ago)
    expect(came[:12] == records, "from a time before the log not all of it came")


@_log_promise("log-readers", "A slow reader stalls nobody, and misses nothing")
async def _readers(shelf: _Shelf) -> None:
    bodies = [body + bytes(1000) for body in numbered(BURST)]
    half = BURST // 2
    async with AsyncExitStack() as stack:
        slow, quick = [
            await stack.enter_async_context(shelf.reader.read(shelf.log(), "first"))
            for _ in range(2)
        ]
        older = await _pour(shelf, bodies[:half])
        (first,) = await shelf.until(slow, older[:1])
        came = await shelf.until(quick, older)
        newer = await _pour(shelf, bodies[half:])
        await shelf.until(quick, newer)
        late = await stack.enter_async_context(
            shelf.reader.read(shelf.log(), came[-1].position + 1)
        )
        came = await shelf.until(late, newer)
        expect(_bodies(came) == newer, "a late reader missed records")
        came = await shelf.until(slow, [*older[1:], *newer])
        expect(_bodies(came) == [*older[1:], *newer], "a slow reader missed records")
        for reader in (slow, quick, late):
            expect(reader.lost == 0, f"{reader.lost} records were called lost")
        expect(first.body == older[0], "a slow reader began with another record")


async def _pour(shelf: _Shelf, bodies: Sequence[bytes]) -> list[bytes]:
    """Append with several under way; return them in the order in which they began."""
    shelf.probe.progress = "appending"
    log = shelf.log()
    begun: list[bytes] = []

    async def append(body: bytes) -> None:
        begun.append(body)
        await shelf.writer.append(log, "key", body)

    for begin in range(0, len(bodies), UNDER_WAY):
        async with anyio.create_task_group() as tasks:
            for body in bodies[begin : begin + UNDER_WAY]:
                tasks.start_soon(append, body)
    return begun


@_log_promise("log-order", "Appends are stored in the order in which they began")
async def _order(shelf: _Shelf) -> None:
    await shelf.fill([b"made"])
    begun = await _pour(shelf, numbered(20 * UNDER_WAY))
    came = await shelf.all_of([b"made", *begun])
    expect(_bodies(came) == [b"made", *begun], "records came in another order")


@_log_promise("log-max-bytes", "LimitExceeded: the body is too large, nothing stored")
async def _max_bytes(shelf: _Shelf) -> None:
    limit = shelf.writer.limits.max_bytes
    largest = bytes(range(256)) * (limit // 256)
    await shelf.fill([largest])
    try:
        await shelf.fill([bytes(limit + 1)])
    except LimitExceeded as error:
        told = (error.value, error.asked)
        expect(told == (limit, limit + 1), f"LimitExceeded tells {told}")
    else:
        raise AssertionError(f"append took {limit + 1} bytes of {limit}")
    await shelf.fill([b"end"])
    came = await shelf.all_of([largest, b"end"])
    expect(_bodies(came) == [largest, b"end"], "something else was stored")


@_log_promise("log-names", "Logs, namespaces and keys do not mix")
async def _names(shelf: _Shelf) -> None:
    ours = shelf.probe.namespace
    longest = "x" * MAX_NAME_LENGTH
    long = ours + "n" * (MAX_NAME_LENGTH - len(ours))
    pairs = [
        (ours, "a_b"), (f"{ours}_a", "b"), (f"{ours}-a", "b"), (ours, "a-b"),
        (ours.upper(), "b"), (ours, "B"), (ours, "b"), (long, longest), (long, "b"),
    ]  # fmt: skip
    logs = [shelf.log(name, namespace) for namespace, name in pairs]
    for number, log in enumerate(logs):
        await shelf.fill([b"%d" % number], log, key=log.name)
    for number, log in enumerate(logs):
        body = b"%d" % number
        async with shelf.reader.read(log, "first") as reader:
            (record, *rest) = await shelf.until(reader, [body])
            expect(record.body == body and not rest, f"log {log} has other records")
            expect(record.key == log.name, f"a key came as {record.key!r}")
            await shelf.none_more(reader, body, f"in the log {log}")


@_log_promise("log-arguments", "ValueError: no name, or no place to begin")
async def _arguments(shelf: _Shelf) -> None:
    for key in ("", "a.b", "-a", "x" * (MAX_NAME_LENGTH + 1)):
        try:
            await shelf.fill([b"body"], key=key)
        except ValueError:
            continue
        raise AssertionError(f"the key {key!r} was taken")
    starts = ["last", -1, datetime(2026, 1, 1), True, 1.5]  # noqa: DTZ001 - a bad one
    for start in starts:
        try:
            async with shelf.reader.read(shelf.log(), start):  # type: ignore[arg-type]
                pass
        except (ValueError, TypeError):
            continue
        raise AssertionError(f"a log was read from {start!r}")


@_log_promise("log-durable", "What was appended outlives connections")
async def _durable(shelf: _Shelf) -> None:
    probe, log = shelf.probe, shelf.log()
    bodies = numbered(20)
    async with probe.backend.open(probe.url) as other:
        for body in bodies:
            await other.append(log, "key", body)
    async with probe.backend.open(probe.other_url) as other:
        async with other.read(log, "first") as reader:
            came = await shelf.until(reader, bodies)
    expect(_bodies(came) == bodies, "records came disordered")


@_log_promise("log-retention", "The oldest records go; a reader counts those it missed")
async def _retention(shelf: _Shelf) -> None:
    probe, log = shelf.probe, shelf.log()
    url, _ = split_option(probe.url, "log_bytes")
    size = 1024 * 1024
    url += ("&" if "?" in url else "?") + f"log_bytes={size}"
    bodies = [body.ljust(PIECE) for body in numbered(3 * size // PIECE)]
    async with probe.backend.open(url) as bus:
        await bus.append(log, "key", bodies[0])
        async with bus.read(log, "first") as reader:
            first = await anext(reader)
        for body in bodies[1:]:
            await bus.append(log, "key", body)
        async with bus.read(log, first.position) as reader:
            came = _bodies(await shelf.until(reader, bodies[-1:]))
            missed = len(bodies) - len(came)
            expect(came == bodies[missed:], "another record than the oldest ones went")
            lost = reader.lost
            expect(lost >= missed, f"{missed} records went, {lost} were called lost")


@_log_promise("log-anew", "A position past the end is of a log that is gone")
async def _anew(shelf: _Shelf) -> None:
    await shelf.fill([b"one", b"two"])
    _, two = await shelf.all_of([b"one", b"two"])
    async with shelf.reader.read(shelf.log(), two.position + 1000) as reader:
        came = await shelf.until(reader, [b"one", b"two"])
        expect(_bodies(came) == [b"one", b"two"], "another record came first")
        restarted = reader.restarted
        expect(restarted == 1, f"`restarted` is {restarted}, not 1")


@_log_promise("log-delete", "A deleted log is gone, and its readers go on")
async def _delete(shelf: _Shelf) -> None:
    log = shelf.log()
    await shelf.writer.delete_log(shelf.log("never-there"))
    await shelf.fill(numbered(3))
    async with shelf.reader.read(log, "first") as reader:
        await shelf.until(reader, numbered(3))
        await shelf.writer.delete_log(log)
        await shelf.fill([b"new"])
        came = await shelf.until(reader, [b"new"])
        expect(_bodies(came) == [b"new"], "an old record came again")
        restarted = reader.restarted
        expect(restarted == 1, f"`restarted` is {restarted}, not 1")
    came = await shelf.all_of([b"new"])
    expect(_bodies(came) == [b"new"], "records outlived their log")


@_log_promise("log-cancel", "A cancelled wait for a record takes nothing")
async def _cancel(shelf: _Shelf) -> None:
    bodies = numbered(40)
    came: list[bytes] = []

    async def take(reader: LogReader, scope: anyio.CancelScope) -> None:
        with scope:
            came.append((await anext(reader)).body)

    async with shelf.reader.read(shelf.log(), "first") as reader:
        for number, body in enumerate(bodies):
            # Cancelled about when the record arrives: at once here, later elsewhere.
            async with anyio.create_task_group() as tasks:
                scope = anyio.CancelScope()
                tasks.start_soon(take, reader, scope)
                await anyio.lowlevel.checkpoint()
                await shelf.writer.append(shelf.log(), "key", body)
                await anyio.sleep((number // 4 % 5) / 1000)
                for _ in range(number % 4):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        if bodies[-1] not in came:
            came += _bodies(await shelf.until(reader, bodies[-1:]))
    expect(list(dict.fromkeys(came)) == bodies, "records were lost, or disordered")


@_log_promise("log-closing", "Leaving `read` or the bus ends the waits of a reader")
async def _closing(shelf: _Shelf) -> None:
    probe, ended = shelf.probe, []

    async def wait(reader: LogReader) -> None:
        try:
            await anext(reader)
        except RemotingError as error:
            ended.append(type(error).__name__)

    async with anyio.create_task_group() as tasks:
        async with shelf.reader.read(shelf.log(), "next") as reader:
            tasks.start_soon(wait, reader)
            await anyio.sleep(TICK)
            probe.progress = "leaving `read` while a task waits for a record"
    async with anyio.create_task_group() as tasks:
        async with AsyncExitStack() as reading:
            async with probe.backend.open(probe.url) as bus:
                reader = await reading.enter_async_context(
                    bus.read(shelf.log(), "next")
                )
                tasks.start_soon(wait, reader)
                await anyio.sleep(TICK)
                probe.progress = "closing the bus while a task waits for a record"
    expect(ended == ["ChannelClosed"] * 2, f"the waits ended with {ended}")
