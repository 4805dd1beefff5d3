"""Files over a channel: put, get, whole trees, and open files.

`files` is what programs hold and `serving` what it calls on the far side. A transfer is
read by `source`, written by `sink` and `staging`, and led by `exchange`; `records` is its
format. It must not know which program serves or asks. Start with `records`.
"""

from __future__ import annotations

from .exchange import Transfer
from .files import RemoteFiles
from .serving import CARRIED, register

__all__ = ["CARRIED", "RemoteFiles", "Transfer", "register"]
