"""The order of the steps, and how one that fails is told of.

It must not know what the steps do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from remoting_bus._cli.failures import describe
from remoting_bus._loop import clock

from . import bulk, calls, faults
from .show import Done, Show, Skipped, Unexpected
from .stage import Stage, opened

__all__ = ["STEPS", "Step", "play", "play_steps"]

Step = Callable[[Stage, Show], Awaitable[Done]]

STEPS: tuple[tuple[str, str, Step], ...] = (
    ("call", "Call a function on all agents", calls.call_all),
    ("command", "Run a build-like command, its output as it comes", calls.command),
    ("file", "Send a file", bulk.send_file),
    ("folder", "Send a folder", bulk.send_folder),
    ("cancel", "Cancel a running job", calls.cancel),
    ("flood", "Call beside a flood of bulk", bulk.flood),
    ("outage", "Stop the bus in the middle of a call", faults.stop_bus),
    ("kill", "Kill an agent in the middle of a call", faults.kill_agent),
)


async def play(url: str | None, show: Show) -> None:
    """Start everything, play each step, end everything."""
    began = clock()
    show.say("Starting a bus, a master and three agents, each a process")
    async with opened(url) as stage:
        show.say(f"  bus: {', '.join(stage.master.urls)}")
        await play_steps(STEPS, stage, show)
    show.end(clock() - began)


async def play_steps(
    steps: Iterable[tuple[str, str, Step]], stage: Stage, show: Show
) -> None:
    """Play each step, whatever became of the ones before it."""
    for name, title, step in steps:
        show.say(title)
        await _play_one(name, step, stage, show)


async def _play_one(
    name: str,
    step: Step,
    stage: Stage,
    show: Show,
) -> None:
    try:
        show.done(name, await step(stage, show))
    except Skipped as skipped:
        show.skipped(name, str(skipped))
    except Unexpected as unexpected:
        show.failure(name, str(unexpected))
    except Exception as error:  # noqa: BLE001 - whatever it is, the step has failed
        show.failure(name, str(describe(error)))
