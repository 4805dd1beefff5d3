"""How addresses and lanes become NATS names, in both topologies; nothing else.

`core`: a message goes to the subject `rb.{namespace}.{to}.{lane}.{from}` and whoever
reads there subscribes to it with any sender. `jetstream`: the same subjects, and a stream
per namespace that takes them up; in it a push consumer per peer and lane, its mailbox,
hands them on to a fixed subject, so that every reader of the address gets a copy. (A
stream per peer was tried: the server sets its bytes aside at once, used or not, and
streams of names that never return stay.)

In both, a durable log is a stream of its own that takes up `rbl.{namespace}.{log}.{key}`.

A server can enforce who writes as whom: allow a peer `a` to publish to `rb.ns.*.*.a`
and to subscribe to `rb.ns.a.>` (and `rbm.ns.a.>` with mailboxes); with logs, to publish to
`rbl.ns.*.a` and `$JS.API.STREAM.INFO.>`, and to subscribe to its inbox. `names` allows nothing
that would need escaping here.
"""

from __future__ import annotations

from remoting_bus.names import Address, Lane, LogName

__all__ = [
    "LANE_TOKENS",
    "log_stream",
    "log_subject",
    "mail_subject",
    "mailbox_name",
    "publish_subject",
    "read_pattern",
    "route_of",
    "stream_name",
    "stream_subjects",
]

LANE_TOKENS = {
    Lane.CONTROL: "control",
    Lane.CALL: "call",
    Lane.BULK: "bulk",
    Lane.LOG: "log",
}


def publish_subject(to: Address, lane: Lane) -> str:
    """Where `to.sender` writes to the peer `to.name`.

    A sender without a name writes as "-", which no peer can be called.
    """
    sender = to.sender or "-"
    return f"rb.{to.namespace}.{to.name}.{LANE_TOKENS[lane]}.{sender}"


def route_of(at: Address, lane: Lane) -> str:
    """What all subjects read at one address and lane begin with, up to the sender."""
    return f"rb.{at.namespace}.{at.name}.{LANE_TOKENS[lane]}"


def read_pattern(route: str) -> str:
    """The subscription for a route, any sender."""
    return f"{route}.*"


def mail_subject(route: str) -> str:
    """Where a mailbox hands on what it keeps for a route.

    Outside `rb.`, or the stream would take up again what it hands on.
    """
    return f"rbm.{route.removeprefix('rb.')}"


def stream_name(route: str) -> str:
    """The stream that keeps a namespace's messages."""
    return f"rb={route.split('.')[1]}"


def stream_subjects(route: str) -> list[str]:
    """What the stream takes up: every peer, lane and sender of the namespace."""
    return [f"rb.{route.split('.')[1]}.*.*.*"]


def mailbox_name(route: str) -> str:
    """The consumer that hands on what a peer gets on a lane.

    '=' cannot stand in a name, so two routes never share a mailbox.
    """
    _, _, name, lane = route.split(".")
    return f"{name}={lane}"


def log_stream(log: LogName) -> str:
    """The stream that is a log."""
    return f"rb={log.namespace}={log.name}"


def log_subject(log: LogName, key: str) -> str:
    """Where a record is published; "*" as the key is what the stream takes up.

    Outside `rb.`, which mailboxes take up.
    """
    return f"rbl.{log.namespace}.{log.name}.{key}"
