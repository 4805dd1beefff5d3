"""The shared durable log as values: records, where a reader begins, what is kept.

Owns what `Bus.append` and `Bus.read` speak of, the reader that every driver's own is
made of, and the two URL options that every driver with a log has. It must not know any
broker. The promises are `backend`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from remoting_bus.names import LogName

from .urls import BusUrl

__all__ = [
    "LOG_AGE",
    "LOG_BYTES",
    "LOG_OPTIONS",
    "LogReader",
    "LogStart",
    "Record",
    "Retention",
    "check_start",
    "differs",
    "retention_of",
]

LOG_BYTES = 64 * 1024 * 1024
"""Bytes that a log keeps unless the URL says `log_bytes`: some 300,000 lines of output.
Brokers may set it aside at once for each log, so it must fit a small one many times."""

LOG_AGE = 7 * 24 * 3600
"""Seconds that a log keeps a record unless the URL says `log_age`: a week, so that who
comes back on Monday finds Friday."""

LEAST_LOG_BYTES = 1024 * 1024
"""What `log_bytes` must at least be: a broker's usual largest message has to fit."""

LOG_OPTIONS = frozenset({"log_bytes", "log_age"})
"""Options of a URL that each driver with a durable log knows."""

LogStart = int | datetime | Literal["first", "next"]
"""Where reading begins: with the oldest record there is; with what is appended from now
on; with the record at a position, so the one after a record is `record.position + 1`; or
with the first record that is not older than a time (an aware datetime)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a log, as every reader sees it.

    Attributes:
        position: Its place. It rises along the log and never changes, for all readers;
            there may be holes. It means nothing in another log.
        time: When the broker stored it, aware, in UTC. Where a broker does not tell, it
            is when it was appended, by the appender's clock.
        key: What or whom it is about, as `append` got it.
        body: As `append` got it.
    """

    position: int
    time: datetime
    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Retention:
    """What a log keeps; the oldest records go first.

    Attributes:
        max_bytes: Of bodies, keys and what the broker needs beside them.
        max_age: Seconds.
    """

    max_bytes: int = LOG_BYTES
    max_age: int = LOG_AGE


class LogReader(AsyncIterator[Record], ABC):
    """The records of a log in order, for one reader; what `Bus.read` gives.

    Iterating waits for records that are yet to come and never ends by itself. A
    cancelled wait takes nothing. Used by one task at a time.

    Attributes:
        position: Of the record that comes next, or of a later one where there is a hole;
            None until that is known.
        lost: How many positions were passed over because what stood there was gone:
            retention had taken it before this reader came. Counted from the position
            that was asked for, or from the first record that came. More than the records
            lost where the broker leaves holes of its own, never fewer.
        restarted: How often the log was found to be another one than before (deleted
            and made anew, its storage lost): reading went on with its oldest record,
            and positions began again.
    """

    def __init__(self) -> None:
        self.position: int | None = None
        self.lost = 0
        self.restarted = 0

    @abstractmethod
    async def __anext__(self) -> Record:
        """Wait for the next record.

        Raises:
            ChannelClosed: The bus was closed, or `read` was left.
            ChannelBroken: The connection is gone for good.
            RemotingError: As `Bus.read` raises, where the log went and cannot be had
                again.
        """

    def passed(self, position: int) -> bool:
        """Keep account of a record that came: for drivers.

        Returns:
            False if this reader had it before: it is to be dropped.
        """
        expected = self.position
        if expected is not None:
            if position < expected:
                return False
            self.lost += position - expected
        self.position = position + 1
        return True

    def begin_again(self, position: int | None = None) -> None:
        """Take note that this is another log, whose oldest record is next: for drivers."""
        self.restarted += 1
        self.position = position


def check_start(start: object) -> LogStart:
    """Return `start` if a log can be read from there: for drivers.

    Raises:
        ValueError: It is none of the four; the message says which there are.
        TypeError: It is of another type.
    """
    if start == "first":
        return "first"
    if start == "next":
        return "next"
    if isinstance(start, str):
        raise ValueError(
            f'a log is read from "first", "next", a position or a time, not {start!r}'
        )
    if isinstance(start, datetime):
        if start.utcoffset() is not None:
            return start
        raise ValueError(
            f"the time {start} has no time zone; a log is read from an aware one, such "
            "as datetime.now(UTC)"
        )
    if isinstance(start, int) and not isinstance(start, bool):
        if start >= 0:
            return start
        raise ValueError(f"a log has no position {start}: positions are 0 or more")
    raise TypeError(
        'a log is read from "first", "next", a position (int) or an aware datetime, '
        f"not {type(start).__name__}"
    )


def retention_of(url: BusUrl) -> Retention:
    """Return what a URL says that logs keep: for drivers.

    Raises:
        ValueError: `log_bytes` or `log_age` is no whole number, or too small.
    """
    return Retention(
        max_bytes=url.int_option("log_bytes", LOG_BYTES, minimum=LEAST_LOG_BYTES),
        max_age=url.int_option("log_age", LOG_AGE),
    )


def differs(log: LogName, kept: Retention) -> str:
    """Return the "note" of a log that keeps other than the URL says: for drivers."""
    size = f"{kept.max_bytes} bytes" if kept.max_bytes > 0 else "any number of bytes"
    age = f"{kept.max_age} s" if kept.max_age > 0 else "records of any age"
    return (
        f"the log {log} is there with another retention: it keeps {size} and {age}, and "
        "is used as it is. Whoever made it decided; delete it to have it made anew, or "
        "change it at the broker"
    )
