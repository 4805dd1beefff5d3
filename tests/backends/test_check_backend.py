"""`check_backend` catches drivers that break a promise, and names the promise."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from remoting_bus.bus import Bus, Deliver, LinkEvent
from remoting_bus.bus.memory import MemoryBackend
from remoting_bus.errors import LimitExceeded
from remoting_bus.names import Address, Lane
from remoting_bus.testing import check_backend
from remoting_bus.testing.promise import PROMISES

from .broken import PATIENCE, Fake, Inner, broken_by

pytestmark = pytest.mark.anyio


class Publishing(Inner):
    """Changes each publish by `change`, a plain function of this class."""

    def change(
        self, to: Address, lane: Lane, body: bytes
    ) -> list[tuple[Address, Lane, bytes]]:
        raise NotImplementedError

    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        for there, on, what in self.change(to, lane, body):
            await self.inner.publish(there, on, what)
        await anyio.lowlevel.checkpoint()


class MixesNamespaces(Publishing):
    """Reads and writes at `namespace_name`, so that a_b and c is a and b_c."""

    @staticmethod
    def flat(at: Address) -> Address:
        joined = f"{at.namespace}_{at.name}"
        return Address("flat", joined[:30] + joined[-33:], at.sender)

    def change(
        self, to: Address, lane: Lane, body: bytes
    ) -> list[tuple[Address, Lane, bytes]]:
        return [(self.flat(to), lane, body)]

    def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AbstractAsyncContextManager[None]:
        return self.inner.consume(
            self.flat(at), lanes, prefetch=prefetch, deliver=deliver
        )


class IgnoresCase(MixesNamespaces):
    """Folds names to lower case, as a file system would."""

    @staticmethod
    def flat(at: Address) -> Address:
        return replace(at, name=at.name.lower())


class Loses(Publishing):
    """Loses each hundredth message, as a full queue of a client library does."""

    seen = 0

    def change(
        self, to: Address, lane: Lane, body: bytes
    ) -> list[tuple[Address, Lane, bytes]]:
        self.seen += 1
        return [] if self.seen % 100 == 0 else [(to, lane, body)]


class Swaps(Publishing):
    """Sends each second message before the one that came before it."""

    def __init__(self, inner: Bus) -> None:
        super().__init__(inner)
        self.kept: list[tuple[Address, Lane, bytes]] = []

    def change(
        self, to: Address, lane: Lane, body: bytes
    ) -> list[tuple[Address, Lane, bytes]]:
        if not self.kept:
            self.kept = [(to, lane, body)]
            return []
        kept, self.kept = self.kept, []
        return [(to, lane, body), *kept]


class Cuts(Publishing):
    """Cuts what is longer than 64 KiB."""

    def change(
        self, to: Address, lane: Lane, body: bytes
    ) -> list[tuple[Address, Lane, bytes]]:
        return [(to, lane, body[: 64 * 1024])]


class OneLane(Publishing):
    """Knows one lane only."""

    def change(
        self, to: Address, lane: Lane, body: bytes
    ) -> list[tuple[Address, Lane, bytes]]:
        return [(to, Lane.CALL, body)]


class TakesAnySize(Inner):
    """Forgets to look at the size: what is too large vanishes without an error."""

    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        with suppress(LimitExceeded):
            await self.inner.publish(to, lane, body)


class WaitsForEver(Inner):
    """Its publish waits for a confirm that does not come once the bus is closed."""

    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        await self.inner.publish(to, lane, body)
        if lane is Lane.BULK:
            await anyio.sleep_forever()


class DeliversInside(Inner):
    """Takes the shortcut: hands a message to this connection's reader at once."""

    def __init__(self, inner: Bus) -> None:
        super().__init__(inner)
        self.readers: list[Deliver] = []

    def try_publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> bool:
        if self.readers and len(body) <= self.limits.max_bytes:
            self.readers[0](body, lane)
            return True
        return self.inner.try_publish(to, lane, body)

    @asynccontextmanager
    async def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AsyncGenerator[None, None]:
        reading = self.inner.consume(at, lanes, prefetch=prefetch, deliver=deliver)
        async with reading:
            self.readers.append(deliver)
            yield
            self.readers.remove(deliver)


class DeliversInTask(DeliversInside):
    """The same shortcut in `publish`."""

    def try_publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> bool:
        return False

    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        if self.readers and len(body) <= self.limits.max_bytes:
            self.readers[0](body, lane)
        await self.inner.publish(to, lane, body)


class DeliversLater(Inner):
    """Goes on delivering after `consume` was left."""

    def __init__(self, inner: Bus) -> None:
        super().__init__(inner)
        self.stack: list[AbstractAsyncContextManager[None]] = []

    @asynccontextmanager
    async def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AsyncGenerator[None, None]:
        reading = self.inner.consume(at, lanes, prefetch=prefetch, deliver=deliver)
        self.stack.append(reading)
        await reading.__aenter__()
        yield

    async def closing(self) -> None:
        for reading in reversed(self.stack):
            await reading.__aexit__(None, None, None)


class Competes(Inner):
    """Gives each message to one of an address's readers: a queue, not a copy each."""

    def __init__(self, inner: Bus) -> None:
        super().__init__(inner)
        self.readers: list[Deliver] = []
        self.turn = itertools.count()

    @asynccontextmanager
    async def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AsyncGenerator[None, None]:
        mine = len(self.readers)
        self.readers.append(deliver)

        def only_in_turn(body: bytes, lane: Lane) -> None:
            if hash(body) % len(self.readers) == mine:
                deliver(body, lane)

        try:
            async with self.inner.consume(
                at, lanes, prefetch=prefetch, deliver=only_in_turn
            ):
                yield
        finally:
            self.readers.remove(deliver)


class SubscribesLate(Inner):
    """Lets `consume` be entered before the broker has the subscription."""

    @asynccontextmanager
    async def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AsyncGenerator[None, None]:
        async def subscribe() -> None:
            await anyio.sleep(0.02)
            async with self.inner.consume(
                at, lanes, prefetch=prefetch, deliver=deliver
            ):
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(subscribe)
            yield
            tasks.cancel_scope.cancel()


class TellsChangesOnly(Inner):
    """Its `link_events` has nothing until something changes."""

    @asynccontextmanager
    async def link_events(self) -> AsyncGenerator[AsyncIterator[LinkEvent], None]:
        async with self.inner.link_events() as events:
            await anext(events)
            yield events


class AcceptsAnyUrl(Fake):
    """Reads no more of a URL than it likes."""

    @asynccontextmanager
    async def open(self, url: str) -> AsyncGenerator[Bus, None]:
        async with MemoryBackend().open("memory://any") as inner:
            yield inner


async def test_the_wrapper_alone_breaks_nothing() -> None:
    assert await broken_by(Fake(Inner), PROMISES, 20) == []


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (MixesNamespaces, "namespaces"),
        (IgnoresCase, "names"),
        (Loses, "burst"),
        (Swaps, "order"),
        (Cuts, "unchanged"),
        (OneLane, "lanes"),
        (TakesAnySize, "max-bytes"),
        (WaitsForEver, "closing"),
        (DeliversInside, "outside"),
        (DeliversInTask, "outside"),
        (DeliversLater, "left"),
        (Competes, "fan-out"),
        (SubscribesLate, "subscribed"),
        (TellsChangesOnly, "link-events"),
    ],
)
async def test_a_broken_driver_is_caught_by_the_promise_that_it_breaks(
    broken: Callable[[Bus], Inner], promise: str
) -> None:
    assert await broken_by(Fake(broken), [promise]) == [promise]


async def test_a_driver_that_reads_any_url_is_caught() -> None:
    assert await broken_by(AcceptsAnyUrl(Inner), PROMISES, 20) == ["url"]


async def test_the_report_says_what_was_promised_and_what_came() -> None:
    with pytest.raises(
        ExceptionGroup, match="Fake breaks 1 of 1 promises: unchanged"
    ) as e:
        await check_backend(
            Fake(Cuts), "memory://report", promises=["unchanged"], deadline=PATIENCE
        )
    (error,) = e.value.exceptions
    assert str(error) == (
        "unchanged: it was not done within 1 s, waiting for 1 of 4 messages that did "
        "not arrive. Promised: A message is never changed, and never cut"
    )


async def test_only_the_promises_asked_for_are_tried() -> None:
    await check_backend(Fake(Cuts), "memory://some", promises=["link-events", "again"])
    with pytest.raises(ValueError, match="no such promise: manners"):
        await check_backend(Fake(Cuts), "memory://some", promises=["manners"])
