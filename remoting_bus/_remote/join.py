"""Join tokens: the one line that tells an agent where its fleet is.

Owns the format: `rb1.` and base64url (no padding) of a CBOR map followed by its CRC-32.
The number in front is the format's version; keys of the map that are not known are left
alone, so that a later release can add to it (the master's key, a secret to enrol with).
It must not know what a URL means.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from remoting_bus.names import check_name
from remoting_bus.protocol.codec import DecodeError, decode, encode

__all__ = ["JoinToken"]

_VERSION = 1
_PREFIX = re.compile(r"rb(\d{1,6})\.(.*)", re.ASCII | re.DOTALL)
_MAX_LENGTH = 8192
"""Characters; a token is pasted into a terminal, whose lines are not longer."""


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What an agent needs to find its masters.

    Attributes:
        urls: The bus, in the form that `rb.open_bus` takes.
        namespace: The fleet.
    """

    urls: tuple[str, ...]
    namespace: str

    def __str__(self) -> str:
        payload = encode({"urls": list(self.urls), "namespace": self.namespace})
        sealed = payload + zlib.crc32(payload).to_bytes(4, "big")
        text = base64.urlsafe_b64encode(sealed).decode("ascii").rstrip("=")
        return f"rb{_VERSION}.{text}"

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Read a token as a person pasted it.

        Raises:
            ValueError: It is not a token, is damaged, or was made by a newer release;
                the message says which, and what to do.
        """
        match = _PREFIX.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                "this is not a join token: one begins with 'rb1.' and is what "
                "`remoting-bus master` prints (Master.join_token)"
            )
        version = int(match[1])
        if version != _VERSION:
            raise ValueError(
                f"this join token has version {version}, and this release of "
                f"remoting-bus reads version {_VERSION}: upgrade the older side"
            )
        return cls._of(_payload(match[2]))

    @classmethod
    def _of(cls, value: object) -> JoinToken:
        if isinstance(value, dict):
            urls, namespace = value.get("urls"), value.get("namespace")
            if (
                isinstance(urls, list)
                and urls
                and all(isinstance(url, str) and url for url in urls)
                and isinstance(namespace, str)
            ):
                return cls(_as_strings(urls), check_name(namespace, "namespace"))
        raise _damaged("it holds no addresses and namespace")


def _as_strings(urls: Sequence[object]) -> tuple[str, ...]:
    return tuple(str(url) for url in urls)


def _payload(text: str) -> object:
    if len(text) > _MAX_LENGTH:
        raise _damaged(f"it is longer than {_MAX_LENGTH} characters")
    try:
        padded = text + "=" * (-len(text) % 4)
        sealed = base64.b64decode(padded.encode("ascii"), b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _damaged("it has characters that no token has") from None
    payload, check = sealed[:-4], sealed[-4:]
    if len(sealed) < 5 or zlib.crc32(payload).to_bytes(4, "big") != check:
        raise _damaged("a part is missing or was changed")
    try:
        return decode(payload)
    except DecodeError as error:
        raise _damaged(str(error)) from None


def _damaged(why: str) -> ValueError:
    return ValueError(
        f"this join token is damaged: {why}. Copy the whole line that the master prints"
    )
