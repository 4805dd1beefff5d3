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

from remoting_bus.names import Address, Lane

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
    """

    max_bytes: int
    ordered: bool = True
    native_expiry: bool = False
    tells_no_route: bool = False
    keeps_while_away: bool = False
    publishes_under_way: int = 1
    one_loop: bool = False


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """The connection's state changed.

    Attributes:
        state: "up"; "down" (the driver is trying to reconnect); "failed" (it has given
            up: wrong credentials, closed by the broker for good); "blocked" (the broker
            takes nothing for now); "lost" (single messages were dropped by client or
            broker, the connection stands).
        cause: What happened, in words for an operator.
        error: The exception behind it, where there is one.
    """

    state: Literal["up", "down", "failed", "blocked", "lost"]
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
