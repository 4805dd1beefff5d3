"""Publishing: what waits for a broker gathers, and goes in one request.

One request is under way to each broker at a time, with whatever has come for its
partitions meanwhile: so order is kept, also where a request is repeated, and a busy
writer pays for one request what an idle one pays for one message. Where the broker is
idle the request is written in the caller's own turn of the loop.

Measured (both sides in one process, 64 bytes, medians): acks=all and acks=1 are within
noise of each other, as readers get nothing before all replicas in step have it; so "all"
is the default, which loses nothing with a leader. Not idempotent: a repeated request after a lost answer makes duplicates, and the
contract allows them; what numbers would cost is a request at each start and state in
each broker.

It must not know addresses or topologies. Next: `cluster`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from remoting_bus.errors import (
    ChannelBroken,
    ConnectionFailed,
    LimitExceeded,
    RemotingError,
    SecurityError,
)
from remoting_bus_kafka.cluster import (
    MOVED,
    NOT_ALLOWED,
    Cluster,
    Partition,
    code_words,
)
from remoting_bus_kafka.settings import Settings
from remoting_bus_kafka.wire import Broken, Wire

__all__ = ["Sender"]

MAX_REQUEST = 4 * 1024 * 1024
"""Bytes of one request over all partitions of a broker, after which it is full."""

TOO_LARGE = {10, 18}

BLOCKED = {7, 19, 20}
"""Too few replicas, or they are slow: the leader takes nothing for now."""


class Item:
    """One message that waits or is under way.

    Attributes:
        taken: Done when the broker has it; None where nobody waits.
        until: When nobody will wait any more; on the loop's clock.
    """

    __slots__ = ("body", "key", "taken", "until")

    def __init__(
        self, key: bytes, body: bytes, taken: asyncio.Future[None] | None, until: float
    ) -> None:
        self.key = key
        self.body = body
        self.taken = taken
        self.until = until


class _Outlet:
    """What goes to one broker."""

    __slots__ = ("busy", "flight", "ready")

    def __init__(self) -> None:
        self.busy = False
        self.flight: dict[Partition, list[Item]] = {}
        self.ready: dict[Partition, None] = {}


class Sender:
    """Sends messages to partitions, in order.

    Args:
        largest_batch: Bytes of a batch that brokers take.
        look: Called when a partition's leader may be another one, or a broker is silent;
            with the broker, if it is one, and what is wrong.
        blocked: Called with the cause while a broker takes nothing, with "" when it does.
        lost: Called with the cause when messages that nobody waits for were lost.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        *,
        largest_batch: Callable[[], int],
        look: Callable[[int | None, ConnectionFailed], None],
        blocked: Callable[[str], None],
        lost: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._largest_batch = largest_batch
        self._look = look
        self._blocked = blocked
        self._lost = lost
        self._acks = -1 if settings.acks == "all" else 1
        self._queues: dict[Partition, deque[Item]] = {}
        self._outlets: dict[int, _Outlet] = {}
        self._parked: set[Partition] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._is_blocked = False
        self._alone: set[Partition] = set()
        self._causes: dict[Partition, str] = {}
        self._closed = False

    @property
    def patience(self) -> float:
        """Seconds that a message waits for a broker: what it takes to notice a dead one."""
        return self._settings.answer_timeout + self._settings.connect_timeout

    def put_now(self, partition: Partition, key: bytes, body: bytes) -> bool:
        """Send if the broker is idle and connected; never waits."""
        node = self._cluster.leaders.get(partition, -1)
        outlet = self._outlets.get(node)
        if outlet is None or outlet.busy or self._queues.get(partition):
            return False
        if self._closed or self._cluster.standing(node) is None:
            return False
        self._put(partition, Item(key, body, None, self._loop.time() + self.patience))
        return True

    async def put(self, partition: Partition, key: bytes, body: bytes) -> None:
        """Send, and wait until the broker has it.

        Raises:
            LimitExceeded: The broker does not take so large a message.
            ChannelBroken: It was not taken in time; it may have gone.
            SecurityError: We may not write there.
        """
        if self._closed:
            raise ChannelBroken("the bus was closed")
        taken = self._loop.create_future()
        until = self._loop.time() + self.patience
        self._put(partition, Item(key, body, taken, until))
        try:
            async with asyncio.timeout_at(until):
                await taken
        except TimeoutError:
            topic, number = partition
            why = self._causes.get(partition, "the broker did not answer")
            raise ChannelBroken(f"{topic}/{number} took no message: {why}") from None

    def leaders_changed(self) -> None:
        """The cluster was asked again: send what waited to whoever leads now."""
        for node, outlet in list(self._outlets.items()):
            for partition in outlet.flight:
                if self._cluster.leaders.get(partition, node) != node:
                    # No answer will come from a leader that is none any more.
                    self._cluster.forget(node)
            for partition in list(outlet.ready):
                if self._cluster.leaders.get(partition, -1) != node:
                    del outlet.ready[partition]
                    self._parked.add(partition)
        parked, self._parked = self._parked, set()
        for partition in parked:
            self._make_ready(partition)

    def topics(self) -> set[str]:
        """The topics that something waits for, or is under way to."""
        waiting = {topic for topic, _ in self._queues}
        for outlet in self._outlets.values():
            waiting.update(topic for topic, _ in outlet.flight)
        return waiting

    async def close(self, limit: float) -> None:
        """Send what is under way and waits, for so many seconds; fail the rest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while self._tasks and not self._parked:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        rest = [i for queue in self._queues.values() for i in queue]
        self._fail(rest, ChannelBroken("the bus was closed"))
        self._queues.clear()

    def _put(self, partition: Partition, item: Item) -> None:
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = deque()
        queue.append(item)
        if partition not in self._parked:
            self._make_ready(partition)

    def _make_ready(self, partition: Partition) -> None:
        node = self._cluster.leaders.get(partition, -1)
        if node < 0:
            words = f"{partition[0]}/{partition[1]} has no leader now"
            self._park(partition, ConnectionFailed(words), None)
            return
        outlet = self._outlets.get(node)
        if outlet is None:
            outlet = self._outlets[node] = _Outlet()
        outlet.ready[partition] = None
        self._pump(node, outlet)

    def _park(
        self, partition: Partition, error: ConnectionFailed, node: int | None
    ) -> None:
        self._causes[partition] = str(error)
        self._parked.add(partition)
        self._look(node, error)

    def _pump(self, node: int, outlet: _Outlet) -> None:
        """Write the next request to a broker, if it has none and something waits."""
        if outlet.busy or not outlet.ready or self._closed:
            return
        wire = self._cluster.standing(node)
        if wire is None:
            outlet.busy = True
            self._spawn(self._connect(node, outlet))
            return
        batches, size = [], 0
        for partition in list(outlet.ready):
            items, batch = self._gather(partition)
            queue = self._queues[partition]
            if not queue:
                del outlet.ready[partition]
                del self._queues[partition]
            if items:
                outlet.flight[partition] = items
                batches.append((partition[0], [(partition[1], batch)]))
                size += len(batch)
            if size >= MAX_REQUEST:
                break
        if batches:
            outlet.busy = True
            limit = round(1000 * self._settings.answer_timeout)
            request = ProduceRequest(None, self._acks, limit, batches)
            self._spawn(self._send(node, outlet, wire, wire.begin(request)))

    def _gather(self, partition: Partition) -> tuple[list[Item], bytes]:
        """What fits into one batch, oldest first, but for what nobody wants any more."""
        queue = self._queues[partition]
        now = self._loop.time()
        builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, self._largest_batch())
        items: list[Item] = []
        dropped: list[Item] = []
        while queue:
            item = queue[0]
            if (item.taken is not None and item.taken.done()) or item.until < now:
                dropped.append(queue.popleft())
                continue
            if builder.append(len(items), None, item.key, item.body, []) is None:
                break
            items.append(queue.popleft())
            if partition in self._alone:
                break
        if dropped:
            cause = self._causes.get(partition, "the broker did not answer")
            self._fail(dropped, ChannelBroken(f"{partition[0]}: {cause}"))
        return items, bytes(builder.build()) if items else b""

    async def _connect(self, node: int, outlet: _Outlet) -> None:
        try:
            await self._cluster.wire(node)
        except ConnectionFailed as error:
            partitions, outlet.ready = list(outlet.ready), {}
            for partition in partitions:
                self._park(partition, error, node)
        finally:
            outlet.busy = False
        self._pump(node, outlet)

    async def _send(self, node: int, outlet: _Outlet, wire: Wire, answer: Any) -> None:
        try:
            response = await wire.finish(answer)
        except Broken as error:
            flight, outlet.flight = outlet.flight, {}
            for partition, items in flight.items():
                outlet.ready.pop(partition, None)
                self._put_back(partition, items)
                self._park(partition, error, node)
        else:
            flight, outlet.flight = outlet.flight, {}
            for topic, answers in response.topics:
                for number, code, *_ in answers:
                    self._settle((topic, number), flight[topic, number], code, outlet)
        finally:
            outlet.busy = False
        self._pump(node, outlet)

    def _settle(
        self, partition: Partition, items: list[Item], code: int, outlet: _Outlet
    ) -> None:
        """Do what a broker's answer to one batch asks for."""
        if code == 0:
            for item in items:
                if item.taken is not None and not item.taken.done():
                    item.taken.set_result(None)
            if self._causes:
                self._causes.pop(partition, None)
            if self._is_blocked:
                self._is_blocked = False
                self._blocked("")
            return
        words = code_words(code)
        if code in MOVED or code in BLOCKED:
            if code in BLOCKED and not self._is_blocked:
                self._is_blocked = True
                self._blocked(f"{partition[0]}: {words}")
            outlet.ready.pop(partition, None)
            self._put_back(partition, items)
            self._park(partition, ConnectionFailed(words), None)
        elif code in TOO_LARGE and len(items) > 1:
            # The topic takes less than its broker: one by one they may pass.
            self._alone.add(partition)
            self._put_back(partition, items)
            outlet.ready[partition] = None
        elif code in TOO_LARGE:
            self._fail(items, _too_large(partition, items, self._largest_batch()))
        elif code == NOT_ALLOWED:
            said = f"the brokers do not let us write topic {partition[0]}"
            self._fail(items, SecurityError(said))
        else:
            self._fail(items, ChannelBroken(f"{partition[0]}: {words}"))

    def _put_back(self, partition: Partition, items: list[Item]) -> None:
        queue = self._queues.setdefault(partition, deque())
        queue.extendleft(reversed(items))

    def _fail(self, items: list[Item], error: RemotingError) -> None:
        unwanted = 0
        for item in items:
            if item.taken is None:
                unwanted += 1
            elif not item.taken.done():
                item.taken.set_exception(error)
        if unwanted and not self._closed:
            self._lost(f"{unwanted} messages were not taken: {error}")

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _too_large(partition: Partition, items: list[Item], largest: int) -> LimitExceeded:
    asked = max(len(item.body) for item in items)
    return LimitExceeded(
        f"topic {partition[0]} does not take a message of {asked} bytes: its "
        f"max.message.bytes is below the {largest} bytes that we reckoned with",
        limit="max.message.bytes",
        value=largest,
        asked=asked,
    )
