"""Processes of a peer: started, fed, read and ended over a channel.

`remote` is what programs hold and `serving` what it calls on the far side; `child` is one
process there, and `keeper` the program that starts it and sees to its end, whatever
becomes of the one that asked. `docs/processes.md` says what happens when. It must not
know which program serves or asks. Start with `serving`.
"""

from __future__ import annotations

from .remote import MAX_OUTPUT, RemoteProcess, open_process, run_process
from .serving import register

__all__ = ["MAX_OUTPUT", "RemoteProcess", "open_process", "register", "run_process"]
