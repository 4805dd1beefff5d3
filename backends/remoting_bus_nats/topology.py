"""How addresses and lanes become NATS names, in both topologies; nothing else.

`core`: a message goes to the subject `rb.{namespace}.{to}.{lane}.{from}` and whoever
reads there subscribes to it with any sender. `jetstream`: the same subjects, and a stream
per peer, its mailbox, that takes them up; a push consumer per lane hands them on to a
fixed subject, so that every reader of the address gets its own copy.

A server can enforce who writes as whom: allow a peer `a` to publish to `rb.ns.*.*.a`
and to subscribe to `rb.ns.a.>` (and `rbm.ns.a.>` with mailboxes). `names` allows nothing
that would need escaping here.
"""

from __future__ import annotations

from remoting_bus.names import Address, Lane

__all__ = [
    "LANE_TOKENS",
    "mail_subject",
    "mailbox_name",
    "mailbox_subjects",
    "publish_subject",
    "read_pattern",
    "route_of",
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

    Outside `rb.`, or the mailbox would take up again what it hands on.
    """
    return f"rbm.{route.removeprefix('rb.')}"


def mailbox_name(route: str) -> str:
    """The stream that keeps a route's messages: one per peer, all its lanes.

    '=' cannot stand in a name, so two peers never share a mailbox.
    """
    _, namespace, name, _ = route.split(".")
    return f"rb={namespace}={name}"


def mailbox_subjects(route: str) -> list[str]:
    """What the mailbox takes up: every lane and every sender of one peer."""
    _, namespace, name, _ = route.split(".")
    return [f"rb.{namespace}.{name}.*.*"]
