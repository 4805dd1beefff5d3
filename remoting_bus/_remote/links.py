"""The links behind what users hold: for the packages that move bytes beside a call.

A `Call`, a `CallContext` and a `Caller` keep their link to themselves, as it is nothing
of a user's. Whoever needs it in here asks this module, and nobody reads it from outside
`_remote` otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from remoting_bus.channel.link import Link

    from .call import Call
    from .caller import Caller
    from .context import CallContext

__all__ = ["link_of", "link_to"]


def link_of(holder: Call[Any] | CallContext) -> Link:
    """Return the link over which a call was made, or came."""
    return holder._link


async def link_to(caller: Caller, deadline: float | None = None) -> Link:
    """Return the link that the next call would take, waiting for it where there is none.

    Raises:
        CallTimeout: There was none by `deadline`, on the library's clock.
    """
    return await caller._link(deadline)
