"""The one layer that knows which event loop runs, and that threads exist.

Owns the clock, the waiters, turns and timers (`loops`), tasks and threads that outlive
the task that asked for them (`owner`), worker threads for blocking functions
(`workers`), what two loops exchange (`crossing`), and `run`. It must not know what any
of these are used for.
"""

from __future__ import annotations

from .clock import clock
from .crossing import Crossing, Merging
from .loops import Loop, Signal, Timer, current_loop
from .owner import Errand, IoThread, Supervisor, Tasks
from .program import before_termination, run
from .workers import Job, WorkerThreads

__all__ = [
    "Crossing",
    "Errand",
    "IoThread",
    "Job",
    "Loop",
    "Merging",
    "Signal",
    "Supervisor",
    "Tasks",
    "Timer",
    "WorkerThreads",
    "before_termination",
    "clock",
    "current_loop",
    "run",
]
