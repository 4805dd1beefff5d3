"""What masters and agents say to each other besides calls of users.

Owns the names of these functions and the keys of what a program says of itself in its
handshakes. `_master` and `_agent` do not know each other: they meet here.
"""

from __future__ import annotations

__all__ = ["HOME", "MAX_LABELS", "MAX_LABEL_LENGTH", "OFFER", "ROLE", "SETTLE", "TELL"]

ROLE = "role"
"""In the handshake: "master" or "agent"."""

HOME = "home"
"""In an agent's handshake: the name of the master that is its home; empty while it looks
for one."""

OFFER = "fleet"
"""What a master offers: the two functions below."""

SETTLE = "rb:fleet.settle"
"""Called by an agent at the master that it has chosen: it is at home there now."""

TELL = "rb:fleet.tell"
"""Returns what the master knows of agents."""

MAX_LABELS = 64
MAX_LABEL_LENGTH = 128
"""Labels of an agent, and characters of one: masters keep them for a whole fleet."""
