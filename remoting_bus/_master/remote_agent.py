"""A master's handle on one agent: no I/O until it is called.

Owns what is known of the agent, and how a session to it is found: the one that the agent
keeps with its home master, or one opened for the purpose. Slotted and without tasks: a
master holds tens of thousands. It must not know how calls are made: `_remote.caller`
does, nor who decides that an agent is lost: `roster` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from subprocess import CompletedProcess  # noqa: TID251 - the type; nothing is started
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import anyio

from remoting_bus._loop import clock
from remoting_bus._remote.caller import Caller
from remoting_bus._remote.fleet import HOME
from remoting_bus.errors import CallTimeout, PeerLost
from remoting_bus.names import check_timeout
from remoting_bus.protocol.terms import Phase

if TYPE_CHECKING:
    from remoting_bus._process import RemoteProcess
    from remoting_bus._transfer import RemoteFiles
    from remoting_bus.channel.link import Link
    from remoting_bus.channel.node import Node

__all__ = ["AgentState", "RemoteAgent"]

Path = str | bytes | os.PathLike[str]
Command = str | bytes | Sequence[str | bytes | os.PathLike[str]]

AgentState = Literal["unknown", "joined", "suspended", "lost", "left"]

JOIN_TIMEOUT = 30.0
"""Seconds that a call without a deadline waits for an agent that is not there. An agent
that was restarted is back within it (its lookups are at most 5 s apart)."""

ANNOUNCEMENT = 5.0
"""Seconds that `ready` gives an agent that was reached before it chose its home."""

_NAMED = 10
"""Names of known agents in an error: enough to see a slip of the pen."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class RemoteAgent(Caller):
    """One agent, as a master sees it. Made by `Master.agent`.

    Attributes:
        home: The session that the agent keeps with this master; None where it has none.
        suspended: That session is suspended.
    """

    __slots__ = (
        "__weakref__",
        "_changed",
        "_describe_known",
        "_name",
        "_node",
        "_past",
        "_said",
        "home",
        "labels",
        "suspended",
    )

    def __init__(
        self,
        name: str,
        node: Callable[[], Node],
        describe_known: Callable[[], list[str]],
    ) -> None:
        self._name = name
        self._node = node
        self._describe_known = describe_known
        self._past: AgentState = "unknown"
        self._changed: anyio.Event | None = None
        self._said: Mapping[str, Any] = _NOTHING
        self.labels: frozenset[str] = frozenset()
        self.home: Link | None = None
        self.suspended = False

    def __repr__(self) -> str:
        return f"<RemoteAgent {self._name}: {self.state}>"

    @property
    def name(self) -> str:
        """The agent's name."""
        return self._name

    @property
    def state(self) -> AgentState:
        """Where it stands.

        "unknown": it has not been here. "joined". "suspended": it is silent, or the bus
        is away; calls wait. "lost": it did not come back. "left": it said goodbye.
        """
        if self.home is not None:
            return "suspended" if self.suspended else "joined"
        return self._past

    @property
    def info(self) -> Mapping[str, Any]:
        """What the agent said of itself: host, pid, version. Its word, not ours."""
        return self._said

    # -- for the roster --

    def is_home(self, link: Link, labels: frozenset[str]) -> None:
        """It has joined."""
        self.home, self.suspended = link, False
        self._said, self.labels = MappingProxyType(link.info), labels
        self.wake()

    def is_gone(self, state: AgentState) -> None:
        """It has left, or is lost."""
        self.home, self.suspended, self._past = None, False, state
        self.wake()

    # -- for users --

    async def ready(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - its error names the agents
    ) -> None:
        """Wait until the agent can be called.

        Raises:
            CallTimeout: It could not, within `timeout` seconds.
        """
        timeout = check_timeout(timeout)
        with anyio.move_on_after(timeout):
            while not await self._is_ready():
                await self._change()
            return
        raise CallTimeout(self._absent(timeout or 0.0), executed="no")

    async def _is_ready(self) -> bool:
        home = self.home
        if home is not None:
            return not self.suspended
        try:
            link = await self._node().connect(self._name, timeout=None)
        except PeerLost:
            return False  # it left while we were about it: try again
        if link.info.get(HOME) in ("", link.node.name):
            # It looks for its home, which may be here: "joined" is what one expects.
            with link.used(), anyio.move_on_after(ANNOUNCEMENT):
                while self.home is None:
                    await self._change()
        return link.phase is Phase.OPEN

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def wake(self) -> None:
        """Something has changed: for the roster."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    @property
    def files(self) -> RemoteFiles:
        """The agent's files: put, get, whole trees, and open ones."""
        from remoting_bus._transfer import RemoteFiles

        return RemoteFiles(self)

    def open_process(
        self,
        command: Command,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        merge_stderr: bool = False,
    ) -> AbstractAsyncContextManager[RemoteProcess]:
        """Start a process on the agent; leaving the block ends its process group.

        Args:
            command: A list of the program and its arguments, or a line for the shell.
            cwd: Where it runs, on the agent.
            env: Its environment, in place of the agent's.
            merge_stderr: What it writes to standard error comes on its standard output.
        """
        from remoting_bus._process import open_process

        return open_process(self, command, cwd=cwd, env=env, merge_stderr=merge_stderr)

    async def run_process(
        self,
        command: Command,
        *,
        input: bytes | None = None,  # noqa: A002 - as anyio.run_process has it
        check: bool = True,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        merge_stderr: bool = False,
        max_output: int | None = None,
    ) -> CompletedProcess[bytes]:
        """Run a process on the agent to its end, and return what it wrote.

        Args:
            command: As for `open_process`.
            input: Is written to its standard input.
            check: Raise `CalledProcessError` if its exit status is not 0.
            cwd: As for `open_process`.
            env: As for `open_process`.
            merge_stderr: As for `open_process`.
            max_output: Bytes kept of each of its outputs; more end it with an error.
        """
        from remoting_bus._process import MAX_OUTPUT, run_process

        return await run_process(
            self,
            command,
            input=input,
            check=check,
            cwd=cwd,
            env=env,
            merge_stderr=merge_stderr,
            max_output=MAX_OUTPUT if max_output is None else max_output,
        )

    # -- the session --

    async def _link(self, deadline: float | None) -> Link:
        # Suspended, too: calls wait in the session, and it is the one that comes back.
        if self.home is not None:
            return self.home
        return await self._connected(deadline)

    async def _connected(self, deadline: float | None) -> Link:
        if self.home is not None:
            return self.home
        node = self._node()
        now = clock()
        patient_until = now + JOIN_TIMEOUT
        until = patient_until if deadline is None else min(deadline, patient_until)
        try:
            return await node.connect(self._name, timeout=max(0.0, until - now))
        except CallTimeout:
            if deadline is not None and deadline <= patient_until:
                raise CallTimeout(self._absent(deadline - now), executed="no") from None
            raise PeerLost(self._absent(JOIN_TIMEOUT), executed="no") from None

    def _absent(self, waited: float) -> str:
        known = sorted(self._describe_known())
        listed = ", ".join(known[:_NAMED]) or "none"
        more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
        return (
            f"no agent {self._name!r} answered within {max(0.0, waited):.3g} s; "
            f"agents known here: {listed}{more}"
        )
