"""One connection to one broker: aiokafka's, with its failures said in our words.

aiokafka's connection speaks TLS, SASL and the protocol, and its records are built and
read by it in C; its producer and consumer are not used: they hide refused credentials
behind "unable to bootstrap", try for ever where a session would rather know, and cannot
begin to read a partition without waiting for a fetch of others. It must not know topics
or addresses. Next: `cluster`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.conn import AIOKafkaConnection

from remoting_bus.errors import ConnectionFailed
from remoting_bus_kafka.settings import Settings

__all__ = ["Broken", "Refused", "Wire", "words_of"]

_REFUSALS = (
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)
"""What a broker says of a login that will not get better by trying again."""


class Refused(ConnectionFailed):
    """The broker does not take the credentials; trying again is of no use."""

    def __init__(self, message: str) -> None:
        super().__init__(message, final=True)


class Broken(ConnectionFailed):
    """A connection that stood was lost, or its broker did not answer.

    Attributes:
        silent: It did not answer in time, which took that time to notice.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class Wire:
    """A connection to a broker that greeted and let us in. Made by `connect`.

    Attributes:
        place: `host:port`, for messages.
    """

    def __init__(
        self,
        connection: AIOKafkaConnection,
        place: str,
        closing: set[asyncio.Future[None]],
    ) -> None:
        self._connection = connection
        self._closing = closing
        self.place = place

    @classmethod
    async def connect(
        cls,
        settings: Settings,
        context: ssl.SSLContext | None,
        place: tuple[str, int],
        *,
        answer_timeout: float,
        closing: set[asyncio.Future[None]],
    ) -> Wire:
        """Connect, learn the versions, log in.

        Args:
            settings: What the URL says.
            context: TLS, if it is wanted.
            place: Host and port.
            answer_timeout: Seconds for each answer.
            closing: Where it is noted that a socket is being closed: TLS takes a moment
                for that, and the loop has to go on meanwhile.

        Raises:
            Refused: The login is wrong.
            ConnectionFailed: Anything else; the cause is in the message.
        """
        shown = _shown(place)
        connection = AIOKafkaConnection(
            *place,
            client_id=settings.name,
            request_timeout_ms=round(1000 * answer_timeout),
            security_protocol=settings.protocol,
            ssl_context=context,
            sasl_mechanism=settings.sasl,
            sasl_plain_username=settings.user,
            sasl_plain_password=settings.password,
        )
        wire = cls(connection, shown, closing)
        try:
            async with asyncio.timeout(settings.connect_timeout):
                await connection.connect()
        except kafka_errors.KafkaError as error:
            wire.close()  # it was connected, so it will be closed
            raise _failure(settings, shown, error) from error
        except ValueError as error:
            if not isinstance(error, OSError):  # SCRAM: it does not know the password
                wire.close()
                raise Refused(f"{shown} could not prove who it is: {error}") from error
            raise _failure(settings, shown, error) from error
        except OSError as error:
            raise _failure(settings, shown, error) from error
        return wire

    @property
    def connected(self) -> bool:
        """Whether it stands, as far as is known."""
        return bool(self._connection.connected())

    async def ask(self, request: Any) -> Any:
        """Send a request in this turn of the loop; wait for its answer.

        Raises:
            Broken: The connection was lost, or no answer came; it is closed then.

        Cancelling is safe: the answer is dropped when it comes.
        """
        return await self.finish(self.begin(request))

    def begin(self, request: Any) -> Awaitable[Any]:
        """Write a request now; `finish` waits for its answer, and must be awaited."""
        try:
            answer: Awaitable[Any] = self._connection.send(request)
        except kafka_errors.KafkaError as error:
            answer = asyncio.get_running_loop().create_future()
            answer.set_exception(error)
        return answer

    async def finish(self, answer: Awaitable[Any]) -> Any:
        """Wait for the answer to a request that has begun; see `ask`."""
        try:
            return await answer
        except TimeoutError:
            self.close()
            raise Broken(f"{self.place} did not answer", silent=True) from None
        except (OSError, kafka_errors.KafkaError) as error:
            self.close()
            cause = error.__cause__ or error
            raise Broken(f"{self.place}: {words_of(cause)}") from error

    def close(self) -> None:
        """Close now; what waits for an answer raises."""
        closed = self._connection.close()
        if closed is not None and not closed.done():
            self._closing.add(closed)
            closed.add_done_callback(self._closing.discard)


def _failure(settings: Settings, shown: str, error: Exception) -> ConnectionFailed:
    """What became of an attempt, in our words."""
    if isinstance(error, _REFUSALS):
        said = _refusal(settings, error)
        return Refused(f"{shown} refuses the credentials: {said}")
    return ConnectionFailed(f"{shown}: {words_of(error)}{_hint(settings, error)}")


def words_of(error: BaseException) -> str:
    """An error as an operator would read it."""
    if isinstance(error, asyncio.IncompleteReadError | ConnectionResetError):
        return "closed the connection"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, kafka_errors.KafkaError):
        if error.__cause__ is not None:
            return words_of(error.__cause__)
        said = error.args[0] if error.args else ""  # of some the connection itself
        about = said if isinstance(said, str) else ""
        return about or getattr(error, "description", "") or type(error).__name__
    return str(error).strip("'") or type(error).__name__


def _refusal(settings: Settings, error: BaseException) -> str:
    """What is wrong with a login, and what would be right."""
    if isinstance(error, kafka_errors.UnsupportedSaslMechanismError):
        return f"it does not know {settings.sasl}; say another one with sasl="
    if isinstance(error, kafka_errors.IllegalSaslStateError):
        return "this port wants no login; leave user:password@ and sasl= away"
    return words_of(error)


def _hint(settings: Settings, error: BaseException) -> str:
    """What may be the matter when a broker hangs up on us without a word."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ""
    if isinstance(error, ssl.SSLError):
        return " (does this port speak TLS at all?)"
    if words_of(error) != "closed the connection":
        return ""
    if settings.tls:
        return " (does this port speak TLS at all?)"
    return " (does this port want TLS? Then say tls=1)"


def _shown(place: tuple[str, int]) -> str:
    name, port = place
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
