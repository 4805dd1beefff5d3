"""Processes on an agent: started, fed, read and ended from the other side of the bus.

`serving` is the agent's side, `remote` the caller's, `reaper` sees to it that nothing
that an agent started outlives the agent. `docs/processes.md` says what happens when.
"""

from __future__ import annotations

from .remote import MAX_OUTPUT, RemoteProcess, open_process, run_process

__all__ = ["MAX_OUTPUT", "RemoteProcess", "open_process", "run_process"]
