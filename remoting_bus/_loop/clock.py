"""The one clock of the library, the same for every loop and thread of the process.

It counts the time that the machine sleeps (law 10), which the clocks of event loops do
not. It must not be compared with `anyio.current_time()`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

__all__ = ["clock"]


def _choose() -> Callable[[], float]:
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if boot is None:
        return time.monotonic  # not Linux: a sleep is then noticed by its silence
    return functools.partial(time.clock_gettime, boot)


clock: Callable[[], float] = _choose()
"""Return the seconds since some fixed instant, sleep included."""
