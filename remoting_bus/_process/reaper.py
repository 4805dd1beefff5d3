"""Ends the process groups of an agent that is gone, however it went.

A program by itself, run by its path with `python -I -S`: it must import nothing but the
standard library. The agent holds the write end of its standard input and writes one line
for each process group: `+PGID` when it started one, `-PGID` when that is over. When the
pipe closes, kill -9 of the agent included, what is left is ended: SIGTERM, then SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL, as `serving` gives when a caller leaves."""


def main() -> int:
    """Read until the agent is gone, then end what it left."""
    # The agent's own signals are not ours: Ctrl-C reaches the whole foreground group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        group = int(line[1:])
        if line[:1] == b"+":
            groups.add(group)
        else:
            groups.discard(group)
    end(groups)
    return 0


def end(groups: set[int]) -> None:
    """End process groups: ask, wait, then insist."""
    left = {group for group in groups if send(group, signal.SIGTERM)}
    give_up = time.monotonic() + GRACE
    while left and time.monotonic() < give_up:
        time.sleep(0.02)
        left = {group for group in left if send(group, 0)}
    for group in left:
        send(group, signal.SIGKILL)


def send(group: int, number: int) -> bool:
    """Signal a group; False if there is none any more."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
