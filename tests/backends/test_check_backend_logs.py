"""`check_backend` catches drivers that break a promise about logs, and names it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime

import anyio
import anyio.lowlevel
import pytest

from remoting_bus.bus import Bus, LogReader, LogStart, Record
from remoting_bus.errors import ChannelBroken, ChannelClosed, LimitExceeded
from remoting_bus.names import LogName

from .broken import Fake, Inner, broken_by

pytestmark = pytest.mark.anyio


class Reading(LogReader):
    """Hands on what an inner reader gives; each broken one changes a thing."""

    def __init__(self, inner: LogReader) -> None:
        super().__init__()
        self.inner = inner
        self.account()

    async def __anext__(self) -> Record:
        record = await self.inner.__anext__()
        self.account()
        return record

    def account(self) -> None:
        self.position = self.inner.position
        self.lost = self.inner.lost
        self.restarted = self.inner.restarted


class Reads(Inner):
    """Wraps each reader by `reader`, and begins at `begin` of where it should."""

    reader: Callable[[LogReader], LogReader] = Reading

    def begin(self, start: LogStart) -> LogStart:
        return start

    @asynccontextmanager
    async def read(
        self, log: LogName, start: LogStart
    ) -> AsyncGenerator[LogReader, None]:
        async with self.inner.read(log, self.begin(start)) as reader:
            yield type(self).reader(reader)


class WorksAllTheSame(Inner):
    """Has a log and says that it has none."""

    def __init__(self, inner: Bus) -> None:
        super().__init__(inner)
        self.limits = replace(inner.limits, durable_log=False)


class LosesKeys(Inner):
    """Has no place for a key."""

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        await self.inner.append(log, "key", body)


class EndsCut(Reads):
    """Cuts records at 64 KiB."""

    class reader(Reading):
        async def __anext__(self) -> Record:
            record = await super().__anext__()
            return replace(record, body=record.body[: 64 * 1024])


class OwnPositions(Reads):
    """Numbers the records of each reader by themselves."""

    class reader(Reading):
        def __init__(self, inner: LogReader) -> None:
            super().__init__(inner)
            self.number = 0

        async def __anext__(self) -> Record:
            record = await super().__anext__()
            self.number += 1
            return replace(record, position=self.number)


class EntersLate(Reads):
    """Lets `read` be entered before the broker has the place."""

    @asynccontextmanager
    async def read(
        self, log: LogName, start: LogStart
    ) -> AsyncGenerator[LogReader, None]:
        if start != "next":
            async with self.inner.read(log, start) as reader:
                yield reader
            return
        bus = self.inner

        class Late(LogReader):
            inside: AbstractAsyncContextManager[LogReader] | None = None

            async def __anext__(self) -> Record:
                if self.inside is None:
                    self.inside = bus.read(log, start)
                    self.reader = await self.inside.__aenter__()
                return await anext(self.reader)

        late = Late()
        try:
            yield late
        finally:
            if late.inside is not None:
                await late.inside.__aexit__(None, None, None)


class BeginsAfter(Reads):
    """Takes a position for the one of the last record that was read."""

    def begin(self, start: LogStart) -> LogStart:
        return start + 1 if isinstance(start, int) else start


class ForgetsTime(Reads):
    """Knows no times."""

    def begin(self, start: LogStart) -> LogStart:
        return "first" if isinstance(start, datetime) else start


class OnePlace(Inner):
    """Has one place for all readers of a log: a queue."""

    def __init__(self, inner: Bus) -> None:
        super().__init__(inner)
        self.reader: LogReader | None = None

    @asynccontextmanager
    async def read(
        self, log: LogName, start: LogStart
    ) -> AsyncGenerator[LogReader, None]:
        if self.reader is not None:
            yield self.reader
            return
        async with self.inner.read(log, start) as self.reader:
            yield self.reader
        self.reader = None


class Stalls(Inner):
    """Takes no more while a reader of it is a thousand records behind."""

    def __init__(self, inner: Bus) -> None:
        super().__init__(inner)
        self.number = 0

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        self.number += 1
        if self.number > 1000:
            await anyio.sleep_forever()
        await self.inner.append(log, key, body)


class Overtakes(Inner):
    """Lets each second append wait for a turn."""

    def __init__(self, inner: Bus) -> None:
        super().__init__(inner)
        self.number = 0

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        self.number += 1
        if self.number % 2:
            await anyio.lowlevel.checkpoint()
        await self.inner.append(log, key, body)


class TakesAnySize(Inner):
    """Stores what fits of a record."""

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        await self.inner.append(log, key, body[: self.limits.max_bytes])


class StoresAndRefuses(Inner):
    """Raises what it should, and stores the record's begin all the same."""

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        try:
            await self.inner.append(log, key, body)
        except LimitExceeded:
            await self.inner.append(log, key, body[:100])
            raise


class FoldsNames(Inner):
    """Folds names of logs to lower case."""

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        await self.inner.append(self.folded(log), key, body)

    def read(
        self, log: LogName, start: LogStart
    ) -> AbstractAsyncContextManager[LogReader]:
        return self.inner.read(self.folded(log), start)

    @staticmethod
    def folded(log: LogName) -> LogName:
        return LogName(log.namespace.lower(), log.name.lower())


class JoinsNames(FoldsNames):
    """Joins a log's names by what may stand in them."""

    @staticmethod
    def folded(log: LogName) -> LogName:
        joined = f"{log.namespace}_{log.name}"
        return LogName("flat", joined[:30] + joined[-33:])


class TakesAnyKey(Inner):
    """Checks no key."""

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        with suppress(ValueError):
            await self.inner.append(log, key, body)


class ReadsFromAnywhere(Reads):
    """Reads from the end where it does not understand."""

    def begin(self, start: LogStart) -> LogStart:
        return "next" if start not in ("first", "next") else start


class Forgets(Inner):
    """Has records as long as the connection that wrote them."""

    def __init__(self, inner: Bus) -> None:
        super().__init__(inner)
        self.written: set[LogName] = set()

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        self.written.add(log)
        await self.inner.append(log, key, body)

    async def closing(self) -> None:
        for log in self.written:
            await self.inner.delete_log(log)


class CountsNoneLost(Reads):
    """Passes over what is gone, and says nothing."""

    class reader(Reading):
        def account(self) -> None:
            super().account()
            self.lost = 0


class RefusesWhenFull(Inner):
    """Keeps the oldest."""

    def __init__(self, inner: Bus) -> None:
        super().__init__(inner)
        self.stored = 0

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        self.stored += len(body)
        if self.stored > 1024 * 1024:
            raise ChannelBroken("the log is full")
        await self.inner.append(log, key, body)


class WaitsForThePast(Reads):
    """Begins at the end where a position is past it."""

    async def end(self, log: LogName) -> int:
        async with self.inner.read(log, "next") as reader:
            assert reader.position is not None
            return reader.position

    @asynccontextmanager
    async def read(
        self, log: LogName, start: LogStart
    ) -> AsyncGenerator[LogReader, None]:
        if isinstance(start, int) and start > await self.end(log):
            start = "next"
        async with self.inner.read(log, start) as reader:
            yield reader


class DeletesNothing(Inner):
    """Has no way to delete."""

    async def delete_log(self, log: LogName) -> None:
        pass


class LosesWhenCancelled(Reads):
    """Takes a record, and then waits."""

    class reader(Reading):
        async def __anext__(self) -> Record:
            record = await super().__anext__()
            await anyio.lowlevel.checkpoint()
            await anyio.sleep(0.001)
            return record


class WaitsForEver(Reads):
    """Does not see that it is over."""

    class reader(Reading):
        async def __anext__(self) -> Record:
            try:
                return await super().__anext__()
            except ChannelClosed:
                await anyio.sleep_forever()
                raise


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (WorksAllTheSame, "log-unsupported"),
        (LosesKeys, "log-replay"),
        (EndsCut, "log-replay"),
        (EntersLate, "log-next"),
        (BeginsAfter, "log-position"),
        (OwnPositions, "log-position"),
        (ForgetsTime, "log-time"),
        (OnePlace, "log-readers"),
        (Stalls, "log-readers"),
        (Overtakes, "log-order"),
        (TakesAnySize, "log-max-bytes"),
        (StoresAndRefuses, "log-max-bytes"),
        (FoldsNames, "log-names"),
        (JoinsNames, "log-names"),
        (TakesAnyKey, "log-arguments"),
        (ReadsFromAnywhere, "log-arguments"),
        (Forgets, "log-durable"),
        (CountsNoneLost, "log-retention"),
        (RefusesWhenFull, "log-retention"),
        (WaitsForThePast, "log-anew"),
        (DeletesNothing, "log-delete"),
        (LosesWhenCancelled, "log-cancel"),
        (WaitsForEver, "log-closing"),
    ],
)
async def test_a_broken_log_is_caught_by_the_promise_that_it_breaks(
    broken: Callable[[Bus], Inner], promise: str
) -> None:
    assert await broken_by(Fake(broken), [promise]) == [promise]
