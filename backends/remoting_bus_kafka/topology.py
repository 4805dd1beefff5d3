"""How addresses and lanes become topics, partitions and record keys; nothing else.

`partitions`: two topics for a namespace, one for each class of lanes (CONTROL and CALL,
BULK and LOG), with as many partitions as they were created with; a peer reads the
partition that its name is hashed to, and passes over the records of others by their key.
`topic`: two topics of one partition for each peer.

A topic's name begins with the length of the namespace, as names may hold '-' and '_':
so `a-b` and `c` never meet `a` and `b-c`. There is no '.' in it, as Kafka takes '.' and
'_' for the same in some places and refuses topics that differ in nothing else.

A durable log is a topic of one partition, in both.

A record's key is `{lane}/{to}/{from}`: who reads it is known without a look at its body.
"""

from __future__ import annotations

import zlib
from typing import Literal

from remoting_bus.names import Address, Lane, LogName

__all__ = [
    "TopologyName",
    "is_key",
    "key_of",
    "log_topic",
    "partition_of",
    "route_of",
    "topic_of",
]

TopologyName = Literal["partitions", "topic"]

_CLASSES = {
    Lane.CONTROL: "calls",
    Lane.CALL: "calls",
    Lane.BULK: "bulk",
    Lane.LOG: "bulk",
}


def topic_of(topology: TopologyName, address: Address, lane: Lane) -> str:
    """The topic of an address and lane: 249 characters at most, Kafka's limit."""
    space = f"{len(address.namespace)}-{address.namespace}"
    if topology == "partitions":
        return f"rb-{space}-{_CLASSES[lane]}"
    return f"rbt-{space}-{address.name}-{_CLASSES[lane]}"


def log_topic(log: LogName) -> str:
    """The topic of a durable log."""
    return f"rbl-{len(log.namespace)}-{log.namespace}-{log.name}"


def partition_of(name: str, count: int) -> int:
    """The partition that a peer reads: the same in every process, of any version."""
    return zlib.crc32(name.encode()) % count


def route_of(address: Address, lane: Lane) -> bytes:
    """What all keys of an address and lane begin with, up to the sender."""
    return f"{int(lane)}/{address.name}".encode()


def key_of(to: Address, lane: Lane) -> bytes:
    """A record's key; a sender without a name writes as "-", which no peer can be."""
    return f"{int(lane)}/{to.name}/{to.sender or '-'}".encode()


def is_key(key: bytes | None) -> bool:
    """Whether a key is of this form, be it for us or for another peer."""
    return key is not None and key[:2] in _STARTS and key.count(b"/") == 2


_STARTS = {f"{int(lane)}/".encode() for lane in Lane}
