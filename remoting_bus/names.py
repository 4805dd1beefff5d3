"""Names and the small values that every layer shares: addresses, lanes, priorities.

One rule for names serves all brokers: what is allowed here is allowed in a NATS subject
token, an AMQP routing key word and a Kafka topic, with no escaping. Seconds and counts
have one rule, too. It must not know what any of these are used for.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import IntEnum

__all__ = [
    "MAX_NAME_LENGTH",
    "MAX_SECONDS",
    "Address",
    "Lane",
    "LogName",
    "Priority",
    "check_count",
    "check_name",
    "check_seconds",
    "check_timeout",
]

MAX_NAME_LENGTH = 63
"""A DNS label's length; three names of it fit every broker's limit (AMQP: 255 bytes)."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)


def check_name(name: str, what: str = "name") -> str:
    """Return `name` if it may name a peer or a namespace, else raise with the rule.

    Args:
        name: What to check.
        what: What it names, for the message ("agent name", "namespace").

    Raises:
        ValueError: It breaks the rule; the message says the rule and what is wrong.
        TypeError: It is not a string.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {type(name).__name__}")
    if len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name):
        return name
    shown = name if len(name) <= 80 else name[:77] + "..."
    if not name:
        wrong = "it is empty"
    elif len(name) > MAX_NAME_LENGTH:
        wrong = f"it has {len(name)} characters"
    elif name[0] == "-":
        wrong = "it begins with '-'"
    else:
        bad = next(c for c in name if not re.fullmatch(r"[A-Za-z0-9_-]", c))
        wrong = f"it contains {bad!r}"
    raise ValueError(
        f"{what} {shown!r} is not allowed: {wrong}. Use 1 to {MAX_NAME_LENGTH} ASCII "
        "letters, digits, '-' or '_', not beginning with '-'"
    )


MAX_SECONDS = 366 * 86_400.0
"""Of what two peers agree on: a year. What travels is a finite number."""


def check_seconds(
    value: float, what: str, *, least: float = 0.0, most: float = math.inf
) -> float:
    """Return `value` if it is a number of seconds in this range, else raise.

    Raises:
        ValueError: It is outside, or not a number; the message names the range.
        TypeError: It is of another type.
    """
    if not isinstance(value, int | float):
        raise TypeError(f"{what} must be seconds, a number, not {type(value).__name__}")
    if not least <= value <= most:
        upper = "or more" if most == math.inf else f"to {most:.0f}"
        raise ValueError(f"{what} is {value!r}: give seconds, {least:g} {upper}")
    return value


def check_timeout(value: float | None, what: str = "timeout") -> float | None:
    """Return `value` as `check_seconds` does; None and infinity mean no limit: None."""
    if value is None or check_seconds(value, what) == math.inf:
        return None
    return value


def check_count(value: int, what: str, *, least: int) -> int:
    """Return `value` if it is a whole number, `least` or more, else raise.

    Raises:
        ValueError: It is less.
        TypeError: It is of another type.
    """
    if not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{what} is {value}: give {least} or more")
    return value


class Lane(IntEnum):
    """The four priorities on the wire, highest first."""

    CONTROL = 0
    CALL = 1
    BULK = 2
    LOG = 3


class Priority(IntEnum):
    """The order of calls inside the CALL lane."""

    URGENT = 0
    NORMAL = 1
    BACKGROUND = 2


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer is reached, and who writes to it.

    The sender stands in the address, so that a broker can enforce who writes as whom.

    Attributes:
        namespace: One fleet.
        name: The peer that reads here.
        sender: The peer that writes; empty where an address is only read at.
    """

    namespace: str
    name: str
    sender: str = ""


@dataclass(frozen=True, slots=True)
class LogName:
    """Which durable log; both names are checked when it is made.

    Attributes:
        namespace: One fleet.
        name: The log in it.

    Raises:
        ValueError: A name breaks the rule of `check_name`.
    """

    namespace: str
    name: str

    def __post_init__(self) -> None:
        check_name(self.namespace, "namespace")
        check_name(self.name, "name of a log")

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
