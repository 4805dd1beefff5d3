"""From a URL to its driver, by one door for ours and for everybody else's.

Owns the entry-point group and what is said when a scheme has no driver here. It must
not know any driver: `memory` comes in by the same door. Next: `urls`, `backend`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from remoting_bus.errors import ConnectionFailed

from .backend import Backend
from .urls import normalise, parse_url, split_option

__all__ = ["GROUP", "backend_for", "normalise", "schemes", "split_option"]

GROUP = "remoting_bus.backends"
"""The entry-point group: an entry's name is a URL scheme, its object a Backend class."""


def schemes() -> list[str]:
    """Return the schemes that an installed distribution names, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def backend_for(url: str) -> Backend:
    """Return the driver for a URL.

    Args:
        url: As `normalise` returns it; only its scheme decides.

    Raises:
        ValueError: It is no URL, or no driver has its scheme; the message lists those
            that are known.
        ConnectionFailed: The driver is known, but what it needs is not installed; the
            message says what to install. Trying again does not help.
    """
    scheme = parse_url(url, needs_host=False).scheme
    found = sorted(entry_points(group=GROUP, name=scheme), key=_origin)
    if not found:
        known = ", ".join(f"{name}://" for name in schemes())
        raise ValueError(
            f"no driver for {scheme}:// is installed; known are: {known or 'none'}"
            + ("" if known else " (is remoting-bus installed in this environment?)")
        )
    if len({entry.value for entry in found}) > 1:
        owners = ", ".join(f"{_owner(entry)} ({entry.value})" for entry in found)
        raise ValueError(
            f"several drivers claim {scheme}://: {owners}; remove all but one"
        )
    return _load(found[0])


def _load(entry: EntryPoint) -> Backend:
    """Import the driver and make it, or say what is missing."""
    try:
        made = entry.load()
    except ImportError as error:
        raise ConnectionFailed(
            f"the driver for {entry.name}:// cannot be imported ({error}). {_cure(entry)}",
            final=True,
        ) from error
    except AttributeError as error:
        raise ConnectionFailed(
            f"the driver for {entry.name}:// is not where {_owner(entry)} says, at "
            f"{entry.value}. {_cure(entry)}",
            final=True,
        ) from error
    if not (isinstance(made, type) and issubclass(made, Backend)):
        raise TypeError(
            f"{entry.value}, the driver for {entry.name}:// of {_owner(entry)}, is not a "
            "class derived from remoting_bus.bus.Backend"
        )
    return made()


def _cure(entry: EntryPoint) -> str:
    """Say what to install: the distribution's extra of the scheme's name, if any."""
    extras = [] if entry.dist is None else entry.dist.metadata.get_all("Provides-Extra")
    known = extras or []
    # `amqps` is `amqp` with TLS, and comes with the same extra.
    for extra in (*entry.extras, entry.name, entry.name.removesuffix("s")):
        if extra in known:
            return f'Install it: pip install "{_owner(entry)}[{extra}]"'
    return f"Reinstall {_owner(entry)}"


def _owner(entry: EntryPoint) -> str:
    return "an unknown distribution" if entry.dist is None else entry.dist.name


def _origin(entry: EntryPoint) -> tuple[str, str]:
    return entry.value, _owner(entry)
