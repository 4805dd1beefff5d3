"""The state of the link to a cluster, and the task that keeps it.

The link is up while some broker answers and every partition that is read here can be
read. One connection lost is no outage: the cluster is asked again at once, and only if
that does not help is "down" told; a broker that was silent for the time of an answer is.
From then on it is looked again and again, with growing, jittered pauses, until a leader
answers. It must not know what is published or read.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

from remoting_bus.bus.backend import LinkEvent
from remoting_bus.bus.links import LinkBoard
from remoting_bus.errors import ChannelBroken, ConnectionFailed, RemotingError
from remoting_bus_kafka.cluster import Cluster
from remoting_bus_kafka.settings import Settings
from remoting_bus_kafka.wire import Refused

__all__ = ["Link"]

FIRST_PAUSE = 0.1
"""Seconds, at most, before the cluster is asked again after it did not help; each is
jittered from a half of it, so that a fleet does not ask in one moment."""

LONGEST_PAUSE = 1.0
"""Seconds, at most, between two looks. A leader that is replaced is found in so much."""

PATIENT_AFTER = 10.0
"""Seconds of an outage after which the pauses grow further, to `PATIENT_PAUSE`."""

PATIENT_PAUSE = 4.0


class Link:
    """Keeps looking at the cluster, and tells what became of the link.

    Args:
        settle: Called each time the cluster was asked; puts readers and writers where
            the leaders are, and returns why something still cannot be read, or "".

    Attributes:
        board: Where the states are told.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        settle: Callable[[], Awaitable[str]],
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._settle = settle
        self._wake = asyncio.Event()
        self._suspects: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self._ended: BaseException | None = None
        self._changed = asyncio.Event()
        self._since = 0.0
        self.board = LinkBoard(LinkEvent("down", "not connected yet"))

    async def start(self) -> None:
        """Ask the first host that answers for the cluster.

        Raises:
            ConnectionFailed: None answered, or one refused the credentials.
        """
        await self._cluster.open()

    def keep(self) -> None:
        """Tell "up", and look after the link from now on."""
        self._tell_up()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._keep(), name="kafka link")

    async def close(self) -> None:
        """Look no more."""
        self._ended = self._ended or ChannelBroken("the bus was closed")
        self._changed.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def is_up(self) -> bool:
        """Whether "up", or "blocked", was told last."""
        return self.board.present.state in ("up", "blocked")

    def look(self, node: int | None, error: ConnectionFailed) -> None:
        """Something is wrong: ask the cluster again at once.

        Args:
            node: The broker that it is wrong with, if it is one.
            error: What is wrong.
        """
        if isinstance(error, Refused):
            self._fail(error)
            return
        if node is not None:
            self._suspects.add(node)
        self._wake.set()

    def tell_down(self, cause: str, error: BaseException | None = None) -> None:
        """Tell that the link is down, if it is not told already."""
        if self._ended is not None:
            return
        if self.is_up:
            self._since = asyncio.get_running_loop().time()
            self.board.tell(LinkEvent("down", cause, error))
        else:
            self.board.present = LinkEvent("down", cause, error)

    def tell_well(self) -> None:
        """All that is read here can be read again."""
        if self._ended is None and not self.is_up:
            self._tell_up()
            self._changed.set()

    def check(self) -> None:
        """See that there is a link, or may be again.

        Raises:
            ChannelBroken: It is over for good.
        """
        if self._ended is not None:
            raise ChannelBroken(
                f"the Kafka link is over: {self._ended}"
            ) from self._ended

    async def wait_changed(self) -> None:
        """Wait until the link is up, or over, or for a moment."""
        self._changed.clear()
        if self._ended is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_PAUSE / 2):
                    await self._changed.wait()

    def _tell_up(self) -> None:
        count = len(self._cluster.brokers)
        brokers = "1 broker" if count == 1 else f"{count} brokers"
        self.board.tell(LinkEvent("up", f"connected to a cluster of {brokers}"))

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        looked = pause = 0.0
        try:
            while True:
                if not pause:
                    await self._wait_for_cause()
                since = loop.time() - looked
                rest = pause or max(0.0, FIRST_PAUSE - since)
                await asyncio.sleep(random.uniform(rest / 2, rest))  # noqa: S311 - jitter
                pause = await self._look_once(pause)
                looked = loop.time()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the supervisor: nobody else would tell
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Give up for good."""
        if self._ended is None:
            self._ended = error
            self._changed.set()
            self.board.tell(LinkEvent("failed", str(error), error))

    async def _wait_for_cause(self) -> None:
        try:
            async with asyncio.timeout(self._settings.ping_interval):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _look_once(self, pause: float) -> float:
        """Ask the cluster, and return how long to rest before it is asked again."""
        self._wake.clear()
        suspects, self._suspects = self._suspects, set()
        cause = ""
        failure: RemotingError | None = None
        try:
            await self._cluster.refresh(suspects)
            cause = await self._settle()
        except Refused:
            raise
        except ConnectionFailed as error:
            cause, failure = str(error), error
        if not cause:
            self.tell_well()
            return 0.0
        if pause or failure is not None:
            self.tell_down(cause, failure)
        elif self.is_up:
            self._since = asyncio.get_running_loop().time()
        lasted = asyncio.get_running_loop().time() - self._since
        longest = LONGEST_PAUSE if lasted < PATIENT_AFTER else PATIENT_PAUSE
        return min(max(FIRST_PAUSE, pause * 2), longest)
