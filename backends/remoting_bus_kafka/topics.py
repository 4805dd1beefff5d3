"""The topics of a namespace: made when first needed, or checked where they exist.

Owns their settings: kept for a short time and a bounded size, deleted and never
compacted, on three brokers of which two have to be there. A topic that exists keeps its
settings; what cannot work with them is refused, what differs otherwise is told. It must
not know what is sent there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest

from remoting_bus.errors import ConnectionFailed, SecurityError
from remoting_bus_kafka.cluster import NOT_ALLOWED, Cluster, code_words
from remoting_bus_kafka.settings import Settings

__all__ = ["Topics"]

EXISTS = 36
"""Somebody was quicker; that is as good."""

TOO_FEW_BROKERS = 38
"""More replicas were asked for than there are brokers."""

AGAIN = {7, 41, 89}
"""Timed out, the controller has moved, a quota: the same request may do a moment later."""

NOT_ALLOWED_TO_MAKE = {NOT_ALLOWED, 31}

APPEAR_LIMIT = 10.0
"""Seconds for a new topic to have leaders everywhere: milliseconds on one broker."""

MAX_TRACKED = 4096
"""Topics that are asked for each time the cluster is: in the topology `topic` every peer
that was ever written to has two, and command-line programs are peers, too."""

PAUSE = 0.02
"""Seconds between two looks at a topic that is coming."""

OVERHEAD = 256
"""Bytes that a message needs in a batch of its own besides its body: 61 for the batch, up
to 21 for the record, up to 130 for its key; rounded up."""

ASSUMED_BATCH = 1_048_588
"""Bytes of a batch that brokers take by default, where they do not let us ask."""

SHORTEST_RETENTION = 60.0
"""Seconds; who is away for as long as that should find its messages still there."""

BROKER, TOPIC = 4, 2
"""Kinds of resources, in Kafka's numbers."""


class Topics:
    """Sees to it that topics exist and are fit.

    Args:
        tell: Called with what an operator should know of a topic that exists.
        in_use: Returns the topics that are read, or that something waits for.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        tell: Callable[[str], None],
        in_use: Callable[[], set[str]] = set,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._tell = tell
        self._in_use = in_use
        self._locks: dict[str, asyncio.Lock] = {}
        self._fit: set[str] = set()
        self._broker_batch = ASSUMED_BATCH

    @property
    def max_bytes(self) -> int:
        """The largest body of a message."""
        most = max(1, self._broker_batch - OVERHEAD)
        return min(most, self._settings.max_bytes or most)

    @property
    def largest_batch(self) -> int:
        """Bytes of a batch that our topics take, as far as is known."""
        return self.max_bytes + OVERHEAD

    async def learn_limits(self) -> None:
        """Ask a broker for the largest batch that it takes.

        Raises:
            ConnectionFailed: None answers.
        """
        node = next(iter(self._cluster.brokers))
        found = await self._describe(BROKER, str(node), ["message.max.bytes"])
        if found:
            self._broker_batch = int(found["message.max.bytes"])

    def is_ready(self, topic: str) -> bool:
        """Whether it was found fit, and is still there as far as is known."""
        return topic in self._fit and topic in self._cluster.counts

    def forget(self, topic: str) -> None:
        """Look at it again when it is needed next."""
        self._fit.discard(topic)

    async def ready(self, topic: str, partitions: int) -> int:
        """Make or check a topic; return how many partitions it has.

        Args:
            topic: Its name.
            partitions: Where it is made here.

        Raises:
            SecurityError: It is not there and we may not make it, or may not use it.
            ConnectionFailed: It cannot be made, or is not fit; the message says why.

        Cancelling is safe; the topic may be there then.
        """
        if self.is_ready(topic):
            return self._cluster.counts[topic]
        async with self._locks.setdefault(topic, asyncio.Lock()):
            if topic not in self._cluster.tracked:
                self._make_room()
                self._cluster.tracked.add(topic)
                await self._cluster.refresh()
            if topic in self._cluster.counts:
                if topic not in self._fit:
                    await self._check(topic, partitions)
            else:
                if topic in self._cluster.forbidden:
                    raise SecurityError(
                        f"the brokers do not let us use topic {topic}; allow Read, Write "
                        "and Describe on it, and Create if it is to be made by us"
                    )
                await self._make(topic, partitions)
            await self._appear(topic)
            self._fit.add(topic)
        return self._cluster.counts[topic]

    def _make_room(self) -> None:
        """Forget what is only written to now and then; it is looked at again then."""
        if len(self._cluster.tracked) >= MAX_TRACKED:
            kept = self._in_use()
            self._cluster.tracked &= kept
            self._fit &= kept
            self._locks = {
                topic: lock
                for topic, lock in self._locks.items()
                if topic in kept or lock.locked()
            }

    def _replicas(self) -> int:
        return self._settings.replication or min(3, len(self._cluster.brokers))

    def _configs(self, replicas: int) -> dict[str, str]:
        """What a topic that is made here is told to do."""
        keep = self._settings.retention_bytes
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(round(1000 * self._settings.retention)),
            "retention.bytes": str(keep),
            # Only whole segments are dropped: a quarter of what is kept, 1 MiB at least.
            "segment.bytes": str(max(1024 * 1024, keep // 4)),
            "segment.ms": str(max(10_000, round(250 * self._settings.retention))),
            # Set aside at once for each partition; 10 MiB by default.
            "segment.index.bytes": str(256 * 1024),
            "min.insync.replicas": "2" if replicas >= 3 else "1",
        }

    async def _make(self, topic: str, partitions: int) -> None:
        replicas = self._replicas()
        configs = self._configs(replicas)
        no_places: list[int] = []
        wanted = (topic, partitions, replicas, no_places, list(configs.items()))
        deadline = asyncio.get_running_loop().time() + APPEAR_LIMIT
        while True:
            node = self._cluster.controller
            if node not in self._cluster.brokers:
                node = next(iter(self._cluster.brokers))
            wire = await self._cluster.wire(node)
            limit = round(1000 * self._settings.answer_timeout)
            answer = await wire.ask(CreateTopicsRequest([wanted], limit, False))
            _, code, *said = answer.topic_errors[0]
            words = said[0] if said and said[0] else code_words(code)
            if code in (0, EXISTS):
                return
            if code in NOT_ALLOWED_TO_MAKE:
                raise SecurityError(
                    f"the brokers do not let us make topic {topic}: allow Create on "
                    "topics with the prefix rb, or make it beforehand"
                )
            if code == TOO_FEW_BROKERS:
                raise ConnectionFailed(
                    f"topic {topic} cannot have {replicas} replicas ({words}): say "
                    "replication=1, or start more brokers"
                )
            if code not in AGAIN or asyncio.get_running_loop().time() > deadline:
                raise ConnectionFailed(f"topic {topic} cannot be made: {words}")
            await asyncio.sleep(PAUSE)
            await self._cluster.refresh()

    async def _appear(self, topic: str) -> None:
        """Wait until every partition of it has a leader."""
        cluster = self._cluster
        deadline = asyncio.get_running_loop().time() + APPEAR_LIMIT
        while True:
            count = cluster.counts.get(topic, 0)
            if count and all((topic, n) in cluster.leaders for n in range(count)):
                return
            if count and asyncio.get_running_loop().time() > deadline:
                return  # a partition without a leader is told of by who needs it
            if asyncio.get_running_loop().time() > deadline:
                raise ConnectionFailed(f"topic {topic} was made and is not there")
            await asyncio.sleep(PAUSE)
            await cluster.refresh()

    async def _check(self, topic: str, partitions: int) -> None:
        """Refuse what cannot work, tell what is otherwise than we would make it."""
        names = [
            "cleanup.policy",
            "max.message.bytes",
            "retention.ms",
            "retention.bytes",
        ]
        found = await self._describe(TOPIC, topic, names)
        if not found:
            return  # we may not ask; the first message will show
        if "compact" in found["cleanup.policy"]:
            raise ConnectionFailed(
                f"topic {topic} has cleanup.policy={found['cleanup.policy']}, which would "
                "drop all but the newest message of a sender: set it to delete, or "
                "delete the topic",
                final=True,
            )
        largest = int(found["max.message.bytes"])
        if largest < self.largest_batch:
            raise ConnectionFailed(
                f"topic {topic} has max.message.bytes={largest}, less than its broker's "
                f"{self._broker_batch}: raise it, or say "
                f"max_bytes={max(1, largest - OVERHEAD)} in every URL",
                final=True,
            )
        self._compare(topic, found, partitions)

    def _compare(self, topic: str, found: dict[str, str], partitions: int) -> None:
        """Tell what is otherwise, and works."""
        kept = int(found["retention.ms"])
        if 0 <= kept < 1000 * SHORTEST_RETENTION:
            self._tell(
                f"topic {topic} keeps messages for {kept / 1000:g} s only; who is away "
                "for longer loses some, and is sent them again"
            )
        count = self._cluster.counts.get(topic, partitions)
        if count != partitions:
            self._tell(f"topic {topic} has {count} partitions, not {partitions}")

    async def _describe(
        self, kind: int, name: str, settings: list[str]
    ) -> dict[str, str]:
        """Some settings of a broker or topic; empty where we may not ask."""
        node = int(name) if kind == BROKER else next(iter(self._cluster.brokers))
        wire = await self._cluster.wire(node)
        answer = await wire.ask(DescribeConfigsRequest([(kind, name, settings)]))
        code, _words, _kind, _name, entries = answer.resources[0]
        if code:
            return {}
        found = {entry[0]: entry[1] for entry in entries}
        return found if set(settings) <= set(found) else {}
