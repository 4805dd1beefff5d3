"""The bus contract: what a driver provides, and what it promises in words.

Everything above sees brokers through these few classes; `bus/memory` is the reference
driver and `testing.check_backend` is this page as tests. A driver opens one connection,
lives on one loop, and never sees a thread. It must not know what a frame is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal

from remoting_bus.errors import Unsupported
from remoting_bus.names import Address, Lane, LogName

from .log import LogReader, LogStart

__all__ = ["Backend", "Bus", "BusLimits", "Deliver", "LinkEvent"]

Deliver = Callable[[bytes, Lane], None]
"""Takes one message's body and lane. Plain, quick, and never raises."""


@dataclass(frozen=True, slots=True)
class BusLimits:
    """What one connection can and cannot do; read after it is open.

    Attributes:
        max_bytes: The largest body of `publish`.
        ordered: Messages of one (sender, address, lane) arrive in the order published.
        native_expiry: The broker itself drops a message after `expires_in`.
        tells_no_route: `publish` raises or an event tells when nobody reads there.
        keeps_while_away: What was published while the reader was away is kept for it.
        publishes_under_way: How many `publish` calls may wait at once and still help.
        one_loop: The core opens one connection for all lanes, and no I/O thread.
        durable_log: `append`, `read` and `delete_log` work.
    """

    max_bytes: int
    ordered: bool = True
    native_expiry: bool = False
    tells_no_route: bool = False
    keeps_while_away: bool = False
    publishes_under_way: int = 1
    one_loop: bool = False
    durable_log: bool = False


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """The connection's state changed.

    Attributes:
        state: "up"; "down" (the driver is trying to reconnect); "failed" (it has given
            up: wrong credentials, closed by the broker for good); "blocked" (the broker
            takes nothing for now); "lost" (single messages were dropped by client or
            broker, the connection stands); "note" (nothing is wrong with the connection,
            but with something at the broker that an operator should look at).
        cause: What happened, in words for an operator.
        error: The exception behind it, where there is one.
    """

    state: Literal["up", "down", "failed", "blocked", "lost", "note"]
    cause: str = ""
    error: BaseException | None = None


class Bus(ABC):
    """An open connection to a broker, or to several hosts of one.

    Promises, each a test of `check_backend`:

    - At least once, best effort: a message may be lost while a link is down and may
      come twice. It is never changed, and never cut.
    - In order per (sender, address, lane), among messages that arrive.
    - Every consumer of an address gets every message: two are two copies.
    - A message published after `consume` was entered reaches that consumer.
    - Reconnecting is the driver's own work, for ever, with jitter; consumers are put
      back before "up" is told. Wrong credentials are not retried: "failed".

    Where `limits.durable_log` is true, there are logs: what was appended is stored by
    the broker, in one order for all readers, and outlives connections. Promises:

    - At least once: what `append` returned for is stored, and what it raised
      ChannelBroken for perhaps; either may be there twice after trouble. Records are
      never changed, and never cut.
    - In order: appends of one connection are stored in the order in which they began,
      and each reader gets rising positions, none twice, until it says `restarted`.
    - Every reader has a place of its own, and reads all from there on. A slow one holds
      a bounded number of records in memory, and stalls nobody.
    - Reading goes on by itself after an outage, where it was.
    - The oldest records go when a log has more bytes, or they more age, than it keeps
      (some brokers delete in large pieces, and keep more for a while); a reader that finds them gone goes on with the oldest there is and counts them.
    - Whoever touches a log first makes it, with the retention of its own URL
      (`log_bytes`, `log_age`). One that is there is used as it is; where it was made
      otherwise, a "note" of `link_events` says so, once for each connection.
    """

    limits: BusLimits

    @abstractmethod
    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        """Hand a message to the broker and wait until it has taken responsibility.

        Publishes begin in the order of the calls; several may be under way. While the
        link is down it waits, or raises ChannelBroken, as the driver finds best; it
        never waits longer than the time that the driver takes to notice.

        Args:
            to: Where, and as whom (`to.sender`).
            lane: Stands in the broker's address of the message.
            body: At most `limits.max_bytes` bytes. Not copied: do not change it.
            expires_in: Seconds after which the broker may drop it. None means never.

        Raises:
            LimitExceeded: The body is too large. Nothing was sent.
            ChannelBroken: The connection was lost. The message may have gone.

        Cancelling is safe; the message may or may not have been sent.
        """

    @abstractmethod
    def try_publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> bool:
        """Publish without waiting, or do nothing and return False.

        False means that `publish` would have to wait, for room or for the link. A driver
        that cannot publish without waiting always returns False, for a body too large,
        too: `publish` tells the limit then.

        Raises:
            LimitExceeded: The body is too large. Nothing was sent.
        """

    @abstractmethod
    def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AbstractAsyncContextManager[None]:
        """Read what is published to `at` (any sender) on `lanes`, while entered.

        Entering returns once the broker has the subscription. `deliver` is called where
        the data arrives, on this loop, never from inside `publish` or `try_publish`,
        and the message is acknowledged to the broker when it returns (law 26).

        Args:
            at: The address; its sender is ignored.
            lanes: Any of the four.
            prefetch: How many messages the broker may send ahead.
            deliver: See `Deliver`.
        """

    @abstractmethod
    def link_events(
        self,
    ) -> AbstractAsyncContextManager[AsyncIterator[LinkEvent]]:
        """The states of this connection, from the present one on.

        Bounded: a slow reader loses older events, never the newest.
        """

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        """Append a record to a log and wait until the broker has stored it.

        Several may be under way, which is how many a second are had. While the link is
        down it waits, or raises ChannelBroken, as `publish` does.

        Args:
            log: Made if need be.
            key: What or whom the record is about, an agent's name as a rule. A name as
                `check_name` allows it: it stands where the broker's access rules can
                see it, so that each peer writes as itself only.
            body: At most `limits.max_bytes` bytes. Not copied: do not change it.

        Raises:
            LimitExceeded: The body is too large. Nothing was stored.
            ChannelBroken: The record is not known to be stored; it may be. Append it
                again, and it may be there twice.
            ConnectionFailed: The log cannot be had: no right to make it, no room for it.
                Nothing was stored.
            SecurityError: The broker does not let us append there. Nothing was stored.
            Unsupported: This bus has no durable log.
            ValueError: `key` is no name.

        Cancelling is safe; the record may or may not have been stored.
        """
        raise _no_log()

    def read(
        self, log: LogName, start: LogStart
    ) -> AbstractAsyncContextManager[LogReader]:
        """Read a log from a place on, while entered.

        Entering returns once the broker has the place: whatever is appended after that
        is read. It waits while the link is down.

        A position that retention has taken begins with the oldest record there is, and
        `LogReader.lost` says how many were missed. A position more than one past the
        newest is of a log that is gone: this begins with the oldest record there is,
        too, and `LogReader.restarted` says so.

        Args:
            log: Made if need be.
            start: See `LogStart`.

        Raises:
            ConnectionFailed: The log cannot be had: no right to make it, no room for it.
            SecurityError: The broker does not let us read there.
            ChannelBroken: The connection is gone for good.
            Unsupported: This bus has no durable log.
            ValueError, TypeError: `start` is no place.
        """
        raise _no_log()

    async def delete_log(self, log: LogName) -> None:
        """Delete a log with all its records; fine where there is none.

        Who reads it goes on with the log that is made next, and sees `restarted`.

        Raises:
            ChannelBroken: The connection was lost. It may be deleted.
            SecurityError: The broker does not let us.
            Unsupported: This bus has no durable log.
        """
        raise _no_log()


def _no_log() -> Unsupported:
    return Unsupported(
        "this bus has no durable log: its broker, or the driver of it, cannot keep "
        "records (Bus.limits.durable_log)",
        limit="durable_log",
    )


class Backend(ABC):
    """A driver, found by the entry-point group `remoting_bus.backends`.

    The entry's name is the URL's scheme; the class is made without arguments.
    """

    @abstractmethod
    def open(self, url: str) -> AbstractAsyncContextManager[Bus]:
        """Open one connection on the running loop; closed when the context is left.

        Args:
            url: `scheme://host:port,host:port/…?option=value`.

        Raises:
            ConnectionFailed: No host could be reached, or the credentials were refused;
                the message says which. Retrying is the caller's choice.
            ValueError: The URL is not understood; the message says what is wrong.
        """
