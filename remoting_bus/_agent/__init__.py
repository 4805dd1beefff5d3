"""The program that does the work: `Agent`.

`agent` is the program, `home` how it finds its master and stays with it. It must not
know `_master`: the two meet on the bus only. Start with `agent`.
"""

from __future__ import annotations

from .agent import OFFERS, Agent

__all__ = ["OFFERS", "Agent"]
