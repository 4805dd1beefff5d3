"""Which part of a session takes which frame of CONTROL and CALL.

Frames come here in the order of their lane. One of a kind that is not known is answered
"unimplemented", and both sides go on. It must not know what a part makes of a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remoting_bus.names import Lane

from . import frames
from .frames import FrameKind

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Inbox"]


class Inbox:
    """The way of a frame to the part that it is for."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, lane: Lane, number: int, frame: Any) -> None:
        """Take a frame whose turn has come.

        Raises:
            TypeError, ValueError, IndexError, KeyError, AttributeError: It is not what
                the table of frames says.
        """
        if lane is Lane.CALL:
            self._take_call(number, frame)
        else:
            self._take_control(frame)

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
        kind, session = frame[0], self._session
        if session.leaving:
            return  # its calls were stopped and ours have ended
        if kind == FrameKind.CALL:
            session.serving.call(number, frame[1:])
        elif kind == FrameKind.RETURNED:
            session.calling.returned(number, *frame[1:])
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
