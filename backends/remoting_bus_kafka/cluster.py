"""The brokers of one cluster: who leads what, and a connection to each that is needed.

It asks for the state of the cluster wherever somebody answers, the brokers it knows
first, then the hosts of the URL, and keeps one connection to a broker for all but
fetches, which hold theirs. It must not know what is sent, nor when to look again; `link`
does. Next: `topics`, `send`, `fetch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Iterable
from typing import Any

from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from remoting_bus.errors import ConnectionFailed, SecurityError
from remoting_bus_kafka.settings import Settings
from remoting_bus_kafka.wire import Broken, Refused, Wire

__all__ = ["EARLIEST", "LATEST", "MOVED", "Cluster", "Partition", "code_words"]

Partition = tuple[str, int]
"""A topic and the number of one of its partitions."""

LATEST, EARLIEST = -1, -2
"""What ListOffsets calls the end and the beginning of a partition."""

CLOSE_LIMIT = 0.5
"""Seconds that closing waits for sockets to be closed; TLS says goodbye."""

PAUSE = 0.02
"""Seconds between two looks at a partition whose leader is not yet settled."""

MOVED = {3, 5, 6, 9, 56, 72, 74, 75}
"""Error codes of a partition that somebody else leads, or nobody for a moment."""

NOT_ALLOWED = 29
"""The error code of a topic that the rights do not cover."""


def code_words(code: int) -> str:
    """What a broker means by an error code."""
    from aiokafka.errors import for_code

    error = for_code(code)
    return str(getattr(error, "message", "") or error.__name__)


class Cluster:
    """What is known of the cluster, and the connections to it.

    Attributes:
        brokers: Host and port of each broker that is up, by its id.
        leaders: The leader of each partition that has one.
        counts: How many partitions each topic in use has.
        tracked: The topics to ask for.
        controller: The broker that makes topics.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._id: str | None = None
        self._wires: dict[int, Wire] = {}
        self._connecting: dict[int, asyncio.Task[Wire]] = {}
        self._context: ssl.SSLContext | None = None
        self._closing: set[asyncio.Future[None]] = set()
        self._closed = False
        self.brokers: dict[int, tuple[str, int]] = {}
        self.leaders: dict[Partition, int] = {}
        self.counts: dict[str, int] = {}
        self.forbidden: set[str] = set()
        self.tracked: set[str] = set()
        self.controller = -1

    async def open(self) -> None:
        """Ask one of the hosts for the cluster.

        Raises:
            Refused: One does not take the credentials, or they are of two clusters.
            ConnectionFailed: None answers.
        """
        await self.refresh()
        if len(self._settings.hosts) > 1:
            await self._check_one_cluster()

    async def refresh(self, suspects: Iterable[int] = ()) -> None:
        """Ask again who leads what.

        Args:
            suspects: Brokers to ask last, as they may not answer.

        Raises:
            Refused: The credentials are not taken any more.
            ConnectionFailed: No broker answers.
        """
        failures: list[str] = []
        last: ConnectionFailed | None = None
        for node in self._order(set(suspects)):
            try:
                wire = await self.wire(node)
                return self._learn(await self._describe(wire))
            except Refused:
                raise
            except ConnectionFailed as error:
                failures.append(str(error))
                last = error
        known = set(self.brokers.values())
        hosts = [host for host in self._settings.hosts if host not in known]
        random.shuffle(hosts)
        self._context = await asyncio.to_thread(self._settings.tls_context)
        for host in hosts:
            try:
                wire = await self._connect(host)
                try:
                    answer = await self._describe(wire)
                except Broken as error:
                    raise self._hung_up(error) from error
                finally:
                    wire.close()
                return self._learn(answer)
            except Refused:
                raise
            except ConnectionFailed as error:
                failures.append(str(error))
                last = error
        raise ConnectionFailed(
            f"no Kafka broker could be reached: {'; '.join(failures)}"
        ) from last

    async def wire(self, node: int) -> Wire:
        """The connection to a broker; made if there is none.

        Raises:
            ConnectionFailed: It cannot be had.

        Cancelling leaves the attempt to others who wait for it.
        """
        wire = self.standing(node)
        if wire is not None:
            return wire
        task = self._connecting.get(node)
        if task is None:
            task = asyncio.ensure_future(self.connect(node))
            self._connecting[node] = task
            task.add_done_callback(lambda done: self._connected(node, done))
        return await asyncio.shield(task)

    def standing(self, node: int) -> Wire | None:
        """The connection to a broker that stands now."""
        wire = self._wires.get(node)
        return wire if wire is not None and wire.connected else None

    async def connect(self, node: int, *, hold: float = 0.0) -> Wire:
        """A connection to a broker for the caller, who closes it.

        Args:
            node: The broker.
            hold: Seconds that it may keep a request waiting on purpose.

        Raises:
            ConnectionFailed: It cannot be had.
        """
        place = self.brokers.get(node)
        if place is None:
            raise Broken(f"broker {node} is not up")
        return await self._connect(place, hold)

    def forget(self, node: int) -> None:
        """Close the connection to a broker; what waits there fails now."""
        wire = self._wires.pop(node, None)
        if wire is not None:
            wire.close()

    async def offset(self, partition: Partition, which: int) -> int:
        """The end or the beginning of a partition, as its leader says.

        Raises:
            SecurityError: We may not read there.
            ConnectionFailed: There is no leader, or it says something else.
        """
        topic, number = partition
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.answer_timeout
        while True:
            wire = await self.wire(self.leader(partition))
            answer = await wire.ask(OffsetRequest(-1, 0, [(topic, [(number, which)])]))
            entry = answer.topics[0][1][0]
            code, offset = entry[1], entry[3]
            if code == 0:
                return int(offset)
            if code == NOT_ALLOWED:
                raise SecurityError(f"the brokers do not let us read topic {topic}")
            words = f"{topic}/{number}: {code_words(code)}"
            if code not in MOVED:
                raise ConnectionFailed(words)
            if loop.time() > deadline:
                raise Broken(words)
            # A new topic: its leader may hear of it after those who ask.
            await asyncio.sleep(PAUSE)
            await self.refresh()

    def leader(self, partition: Partition) -> int:
        """Who leads a partition.

        Raises:
            ConnectionFailed: Nobody, as far as we know.
        """
        node = self.leaders.get(partition, -1)
        if node < 0:
            raise Broken(f"{partition[0]}/{partition[1]} has no leader now")
        return node

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for task in self._connecting.values():
            task.cancel()
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()
        if self._connecting:
            await asyncio.wait(self._connecting.values(), timeout=CLOSE_LIMIT)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_LIMIT)

    def _order(self, suspects: set[int]) -> list[int]:
        """The brokers to ask: connected ones first, suspects last."""
        nodes = list(self.brokers)
        random.shuffle(nodes)
        return sorted(nodes, key=lambda n: (n in suspects, self.standing(n) is None))

    async def _connect(self, place: tuple[str, int], hold: float = 0.0) -> Wire:
        return await Wire.connect(
            self._settings,
            self._context,
            place,
            answer_timeout=self._settings.answer_timeout + hold,
            closing=self._closing,
        )

    def _connected(self, node: int, task: asyncio.Task[Wire]) -> None:
        self._connecting.pop(node, None)
        if task.cancelled() or task.exception() is not None:
            return
        if self._closed:
            task.result().close()
        else:
            self._wires[node] = task.result()

    async def _describe(self, wire: Wire) -> dict[str, Any]:
        request = MetadataRequest(sorted(self.tracked), False)
        answer: dict[str, Any] = (await wire.ask(request)).to_object()
        if self._id is not None and answer["cluster_id"] != self._id:
            raise ConnectionFailed(
                f"{wire.place} is of another cluster, {answer['cluster_id']}, not of "
                f"{self._id}"
            )
        return answer

    def _learn(self, answer: dict[str, Any]) -> None:
        self._id = answer["cluster_id"]
        self.controller = answer["controller_id"]
        self.brokers = {
            each["node_id"]: (each["host"], each["port"]) for each in answer["brokers"]
        }
        for node in set(self._wires) - set(self.brokers):
            self.forget(node)
        self.leaders, self.counts, self.forbidden = {}, {}, set()
        for topic in answer["topics"]:
            name = topic["topic"]
            if topic["error_code"] == NOT_ALLOWED:
                self.forbidden.add(name)
            if topic["error_code"]:
                continue
            self.counts[name] = len(topic["partitions"])
            for each in topic["partitions"]:
                if each["leader"] >= 0:
                    self.leaders[name, each["partition"]] = each["leader"]

    def _hung_up(self, error: Broken) -> ConnectionFailed:
        """A broker that greets, and then hangs up, as a rule wants a login."""
        if self._settings.user is None and not error.silent:
            hint = "does it want a login? Then say user:password@ and sasl="
            return ConnectionFailed(f"{error} ({hint})")
        return error

    async def _check_one_cluster(self) -> None:
        """See that the hosts that are no known brokers lead to the same ones.

        Raises:
            ConnectionFailed: They do not; final.
        """
        known = set(self.brokers.values())
        hosts = [host for host in self._settings.hosts if host not in known]

        async def ask(host: tuple[str, int]) -> str | None:
            with contextlib.suppress(ConnectionFailed):
                wire = await self._connect(host)
                try:
                    answer = await wire.ask(MetadataRequest([], False))
                    return str(answer.cluster_id)
                finally:
                    wire.close()
            return None

        for found, host in zip(
            await asyncio.gather(*map(ask, hosts)), hosts, strict=True
        ):
            if found is not None and found != self._id:
                raise ConnectionFailed(
                    f"the hosts of the URL are of two Kafka clusters, {self._id} and "
                    f"{found} ({host[0]}:{host[1]}); name brokers of one",
                    final=True,
                )
