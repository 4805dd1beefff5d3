"""What tests are written with: the contract of drivers as tests, faults, brokers.

Each name is imported when it is first used, so that a program that needs one does not
pay for the others. The pytest plugin is `plugin`; nothing here is needed to run a
master or an agent.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import brokers
    from .conformance import BrokenPromise, check_backend
    from .faulty import Faults, FaultyBackend, FaultyBus
    from .world import World

__all__ = [
    "BrokenPromise",
    "Faults",
    "FaultyBackend",
    "FaultyBus",
    "World",
    "brokers",
    "check_backend",
]

_HOMES = {
    "BrokenPromise": "conformance",
    "Faults": "faulty",
    "FaultyBackend": "faulty",
    "FaultyBus": "faulty",
    "World": "world",
    "check_backend": "conformance",
}


def __getattr__(name: str) -> object:
    if name == "brokers":
        return import_module(f"{__name__}.brokers")
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
