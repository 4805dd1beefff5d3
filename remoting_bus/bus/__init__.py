"""The bus: how messages reach a peer, whatever broker carries them.

`backend` is the contract, `memory` its reference driver, `opening` leads from a URL to a
driver. The bus never learns what a frame is.
"""

from .backend import Backend, Bus, BusLimits, Deliver, LinkEvent
from .log import LogReader, LogStart, Record, Retention

__all__ = [
    "Backend",
    "Bus",
    "BusLimits",
    "Deliver",
    "LinkEvent",
    "LogReader",
    "LogStart",
    "Record",
    "Retention",
]
