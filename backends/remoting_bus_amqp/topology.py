r"""How addresses and lanes become AMQP names, in each topology; nothing else.

A namespace has one durable topic exchange, `rb.{namespace}`. A message goes to it with the
routing key `rb.{namespace}.{to}.{lane}.{from}`, and whoever reads binds a queue by
`rb.{namespace}.{to}.{lane}.*`. What differs is the queue of a reader:

- `classic`: an exclusive one for each connection, which is gone with it. A peer has two
  connections, one for calls and one for bulk, and so a queue for each.
- `quorum`: a replicated mailbox for calls and one for bulk, kept while the peer is away.
  Whoever holds the mailbox's *hold*, an exclusive queue that is never used as a queue,
  reads it; another reader of the same address meanwhile has a queue as in `classic`.
- `priority`: an exclusive one for all lanes, in which the lane is the priority.

In all of them, a durable log is a stream that is bound to the same exchange by
`rbl.{namespace}.{log}.*`; a record's key is the last word of its routing key.

A broker can enforce who writes as whom: allow a peer `a` to configure `^rb\.ns\.q\.a\.`,
to write and read that and the exchange, to write to topics `^rb\.ns\.[^.]+\.[^.]+\.a$`
and to read topics `^rb\.ns\.a\.`; with logs, to write to topics `^rbl\.ns\.[^.]+\.a$`. `names` allows nothing that would need escaping here.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from remoting_bus.names import Address, Lane, LogName

__all__ = [
    "LANE_TOKENS",
    "Spot",
    "Topology",
    "binding_key",
    "exchange_name",
    "hold_name",
    "log_arguments",
    "log_key",
    "log_stream",
    "mailbox_arguments",
    "mailbox_name",
    "own_queue_arguments",
    "own_queue_name",
    "priority_of",
    "publish_key",
    "read_prefix",
    "spots",
]

Topology = Literal["classic", "quorum", "priority"]

LANE_TOKENS = {
    Lane.CONTROL: "control",
    Lane.CALL: "call",
    Lane.BULK: "bulk",
    Lane.LOG: "log",
}

_LEAST_PRIORITY = max(Lane)
"""AMQP's higher number is more urgent; ours is less. A queue with priorities keeps one
sub-queue for each, so there are no more than lanes."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One queue that a reader needs.

    Attributes:
        namespace: The fleet.
        name: The peer that reads.
        group: Which lanes share the queue.
    """

    namespace: str
    name: str
    group: Literal["call", "bulk", "all"]

    def __str__(self) -> str:
        return f"rb.{self.namespace}.{self.name} ({self.group})"


def spots(topology: Topology, at: Address, lanes: Collection[Lane]) -> list[Spot]:
    """The queues through which these lanes are read, without repetition."""
    return list(dict.fromkeys(spot_of(topology, at, lane) for lane in lanes))


def spot_of(topology: Topology, at: Address, lane: Lane) -> Spot:
    """The queue through which a lane is read."""
    if topology == "priority":
        return Spot(at.namespace, at.name, "all")
    return Spot(at.namespace, at.name, "call" if lane <= Lane.CALL else "bulk")


def exchange_name(namespace: str) -> str:
    """The exchange of a namespace: a durable topic exchange."""
    return f"rb.{namespace}"


def publish_key(to: Address, lane: Lane) -> str:
    """Where `to.sender` writes to the peer `to.name`.

    A sender without a name writes as "-", which no peer can be called.
    """
    sender = to.sender or "-"
    return f"rb.{to.namespace}.{to.name}.{LANE_TOKENS[lane]}.{sender}"


def read_prefix(spot: Spot) -> str:
    """What every routing key of a spot begins with, up to the lane."""
    return f"rb.{spot.namespace}.{spot.name}."


def binding_key(spot: Spot, lane: Lane) -> str:
    """What binds a queue to a lane of an address, any sender."""
    return f"{read_prefix(spot)}{LANE_TOKENS[lane]}.*"


def mailbox_name(spot: Spot) -> str:
    """The queue of a spot that outlives its reader."""
    return f"rb.{spot.namespace}.q.{spot.name}.{spot.group}"


def hold_name(spot: Spot) -> str:
    """The exclusive queue whose owner reads the mailbox."""
    return f"{mailbox_name(spot)}.hold"


def own_queue_name(spot: Spot) -> str:
    """A new name for a queue of one connection.

    Never the same twice: after a lost connection the broker may keep the old one for
    seconds, and an exclusive queue of a node that is down cannot be declared again.
    """
    return f"{mailbox_name(spot)}.{secrets.token_hex(8)}"


def own_queue_arguments(topology: Topology, max_bytes: int) -> dict[str, Any]:
    """The arguments of such a queue."""
    arguments: dict[str, Any] = {"x-max-length-bytes": max_bytes}
    if topology == "priority":
        arguments["x-max-priority"] = int(_LEAST_PRIORITY)
    return arguments


def mailbox_arguments(
    max_bytes: int, age: float, replicas: int | None
) -> dict[str, Any]:
    """The arguments of a mailbox, bounded in size, in age, and when nobody reads it."""
    milliseconds = int(age * 1000)
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-max-length-bytes": max_bytes,
        "x-message-ttl": milliseconds,
        "x-expires": milliseconds,
    }
    if replicas is not None:
        arguments["x-quorum-initial-group-size"] = replicas
    return arguments


def priority_of(lane: Lane) -> int:
    """The priority of a lane's messages where one queue has all lanes."""
    return int(_LEAST_PRIORITY - lane)


def log_stream(log: LogName) -> str:
    """The stream that is a log."""
    return f"rb.{log.namespace}.log.{log.name}"


def log_key(log: LogName, key: str) -> str:
    """The routing key of a record; with "*" what binds the stream."""
    return f"rbl.{log.namespace}.{log.name}.{key}"


def log_arguments(max_bytes: int, age: int, replicas: int | None) -> dict[str, Any]:
    """The arguments of a log's stream; whole segments go, a quarter of it each."""
    arguments: dict[str, Any] = {
        "x-queue-type": "stream",
        "x-max-length-bytes": max_bytes,
        "x-max-age": f"{age}s",
        "x-stream-max-segment-size-bytes": max_bytes // 4,
    }
    if replicas is not None:
        arguments["x-initial-cluster-size"] = replicas
    return arguments
