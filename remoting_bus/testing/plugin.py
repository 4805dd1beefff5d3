"""The pytest plugin: a master, an agent and faults, for tests of programs.

Loaded by pytest wherever remoting_bus is installed, so it imports nothing before a
fixture is used. The fixtures serve tests marked for anyio (asyncio and trio) and tests
marked for pytest-asyncio alike: the test's mark decides which plugin runs them, on the
test's own loop. Each program is entered and left in one task of its own (a supervisor's),
so it does not matter in which tasks these plugins set up and tear down.

`remoting_master` is a `Master` called "master"; `remoting_agent` an `Agent` called
"agent" that already serves; `remoting_faults` the switches of the network between.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Literal

import pytest

Scope = Literal["function", "class", "module", "package", "session"]

if TYPE_CHECKING:
    from remoting_bus._agent import Agent
    from remoting_bus._master import Master

    from .faults import RemotingFaults
    from .fixtures import TestBus

__all__ = ["remoting_agent", "remoting_faults", "remoting_master"]

_SCOPES: tuple[Scope, ...] = ("function", "class", "module", "package", "session")
"""The scopes of loops that pytest-asyncio knows."""


@pytest.fixture
def _remoting_bus() -> TestBus:
    from .fixtures import TestBus

    return TestBus()


@pytest.fixture
def remoting_faults(_remoting_bus: TestBus) -> RemotingFaults:
    """Switches for the network between `remoting_master` and `remoting_agent`.

    `drop`, `duplicate`, `reorder` and `delay` by kind of frame, `cut` and `heal`,
    `calm`; see `remoting_bus.testing.faults`.
    """
    return _remoting_bus.faults


@pytest.fixture
def remoting_master(request: pytest.FixtureRequest) -> Master:
    """A running `Master`, called "master", on a bus of memory."""
    return request.getfixturevalue(_variant(request, "master"))  # type: ignore[no-any-return]


@pytest.fixture
def remoting_agent(request: pytest.FixtureRequest, remoting_master: Master) -> Agent:
    """A running `Agent`, called "agent", which has joined `remoting_master`.

    `remoting_master.agent(remoting_agent.name)` calls it; functions are added with
    `@remoting_agent.command` as the test goes.
    """
    return request.getfixturevalue(_variant(request, "agent"))  # type: ignore[no-any-return]


def _variant(request: pytest.FixtureRequest, what: str) -> str:
    """Return the name of the fixture for the plugin that runs this test's loop."""
    if "anyio_backend" in request.fixturenames:
        return f"_remoting_{what}_anyio"
    marker = request.node.get_closest_marker("asyncio")
    if marker is None:
        raise pytest.UsageError(
            f"{request.node.nodeid}: remoting_{what} needs a running event loop; mark "
            "the test with pytest.mark.anyio or pytest.mark.asyncio"
        )
    default = request.config.getini("asyncio_default_test_loop_scope") or "function"
    scope = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope") or default
    return f"_remoting_{what}_asyncio_{scope}"


# Functions are made anew for each fixture: pytest-asyncio notes the loop on them.


def _new_master() -> Callable[..., AsyncGenerator[Master, None]]:
    async def master(_remoting_bus: TestBus) -> AsyncGenerator[Master, None]:
        from .fixtures import master_on

        async with master_on(_remoting_bus) as running:
            yield running

    return master


def _new_agent() -> Callable[..., AsyncGenerator[Agent, None]]:
    async def agent(_remoting_bus: TestBus) -> AsyncGenerator[Agent, None]:
        from .fixtures import agent_on

        async with agent_on(_remoting_bus) as running:
            yield running

    return agent


def _define() -> dict[str, Any]:
    """Return the fixtures behind the public ones: one for each way to run a loop."""
    made: dict[str, Any] = {
        "_remoting_master_anyio": pytest.fixture(_new_master()),
        "_remoting_agent_anyio": pytest.fixture(_new_agent()),
    }
    try:
        from pytest_asyncio import fixture
    except ImportError:  # then no test is marked for it
        return made
    for scope in _SCOPES:
        on_loop = fixture(loop_scope=scope)
        made[f"_remoting_master_asyncio_{scope}"] = on_loop(_new_master())
        made[f"_remoting_agent_asyncio_{scope}"] = on_loop(_new_agent())
    return made


globals().update(_define())
