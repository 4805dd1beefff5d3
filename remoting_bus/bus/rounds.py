"""In which order, and after which pauses, a driver tries its hosts again.

One law for all drivers that reconnect by themselves: the next host first and at once,
so that the loss of one node costs next to nothing; once all were tried, pauses that grow
and are jittered, so that a fleet does not come back in one moment. It must not know how
to connect.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "rounds"]

H = TypeVar("H")

FIRST_PAUSE = 0.1
"""Seconds, at most, before hosts are tried again that were all tried; each pause is
jittered from a tenth of it."""

LONGEST_PAUSE = 4.0
"""Seconds, at most, between two rounds over the hosts. What comes back is found in 2 s."""


def rounds(hosts: Sequence[H], last: H) -> Iterator[tuple[float, H]]:
    """Yield hosts to try for ever, each with the seconds to wait before it.

    Args:
        hosts: All of them.
        last: The one whose connection was lost: tried after the others.
    """
    at = hosts.index(last) + 1
    others = [*hosts[at:], *hosts[: at - 1]]
    for host in others:
        yield 0.0, host
    for turn in itertools.count():
        pause = min(FIRST_PAUSE * 2 ** min(turn, 16), LONGEST_PAUSE)
        yield random.uniform(pause / 10, pause), last  # noqa: S311 - jitter
        for host in others:
            yield 0.0, host
