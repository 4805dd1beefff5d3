"""Which part of a session takes which frame of CONTROL and CALL.

Frames come here in the order of their lane. One of a kind that is not known is answered
"unimplemented", and both sides go on. It must not know what a part makes of a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remoting_bus.names import Lane

from . import frames
from .frames import FrameKind
from .terms import Phase

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Inbox"]

# Compared as plain integers, which takes a third of the time.
_CALL = int(FrameKind.CALL)
_RETURNED = int(FrameKind.RETURNED)


class Inbox:
    """The way of a frame to the part that it is for."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, lane: Lane, released: list[tuple[int, Any]]) -> None:
        """Take frames whose turn has come, until the session is over.

        Raises:
            TypeError, ValueError, IndexError, KeyError, AttributeError: One is not what
                the table of frames says.
        """
        session = self._session
        if lane is not Lane.CALL:
            for _, frame in released:
                if session.phase is not Phase.OVER:
                    self._take_control(frame)
            return
        if session.leaving:
            return  # its calls were stopped and ours have ended
        for number, frame in released:
            if session.phase is not Phase.OVER:
                self._take_call(number, frame)

    def _take_control(self, frame: Any) -> None:
        session = self._session
        match frame[0]:
            case FrameKind.CANCEL:
                _, call, reason = frame
                session.serving.cancel(call, reason)
            case FrameKind.GOODBYE:
                session.peer_leaves(frame[1:])
            case FrameKind.UNIMPLEMENTED:
                pass  # the peer is older; what it does without, it said by its version
            case kind:
                session.send_control(frames.unimplemented(kind))

    def _take_call(self, number: int, frame: Any) -> None:
        kind = frame[0]
        if kind == _CALL:
            self._session.serving.call(number, frame)
        elif kind == _RETURNED:
            self._session.calling.returned(number, frame)
        else:
            self._take_other(kind, number, frame)

    def _take_other(self, kind: int, number: int, frame: Any) -> None:
        session = self._session
        match kind:
            case FrameKind.RAISED:
                session.calling.raised(*frame[1:])
            case FrameKind.REFUSED:
                session.calling.refused(*frame[1:])
            case FrameKind.CANCELLED:
                session.calling.cancelled(*frame[1:])
            case FrameKind.PROGRESS:
                session.calling.progress(*frame[1:])
            case FrameKind.RELEASE:
                session.released(*frame[1:])
            case FrameKind.FRAGMENT:
                whole = session.serving.fragment(number, frame[1:])
                if whole is not None:
                    self._take_call(number, whole)
            case _:
                session.send_control(frames.unimplemented(kind))
