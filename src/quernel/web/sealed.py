"""Cookies that only the gateways of one database can make or read, each kind for its own purpose."""

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.requests import Request
from starlette.responses import Response

T = TypeVar("T", bound=msgspec.Struct)

SECURE_PREFIX = "__Host-"
"""Browsers take such a cookie from this host alone, and never send it without encryption."""

COOKIE_BYTES = 4096
"""What browsers keep of a cookie, its name included (RFC 6265, section 6.1)."""

NONCE_BYTES, TAG_BYTES = 12, 16


@dataclass(frozen=True)
class SealedCookie(Generic[T]):
    """A kind of cookie.

    Attributes:
        name: Its name; over HTTPS with `__Host-` before.
        shape: What it holds.
        secret: 32 bytes that only the gateways of this database have.
    """

    name: str
    shape: type[T]
    secret: bytes

    def read(self, request: Request) -> T | None:
        """What a request has in it; `None` where it has none of ours."""
        sealed = request.cookies.get(self._name(request))
        if sealed is None:
            return None
        try:
            content = urlsafe_b64decode(sealed.encode("ascii"))
            opened = AESGCM(self.secret).decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], self.name.encode())
            return msgspec.json.decode(opened, type=self.shape)
        except (ValueError, InvalidTag, msgspec.MsgspecError):
            return None

    def write(self, request: Request, response: Response, content: T, *, seconds: int) -> None:
        """Give a browser one, for so long."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + AESGCM(self.secret).encrypt(nonce, msgspec.json.encode(content), self.name.encode())
        response.set_cookie(
            self._name(request),
            urlsafe_b64encode(sealed).decode(),
            max_age=seconds,
            path="/",
            secure=_is_https(request),
            httponly=True,
            samesite="lax",
        )

    def delete(self, request: Request, response: Response) -> None:
        """Take it from a browser."""
        secure = _is_https(request)
        response.delete_cookie(self._name(request), path="/", secure=secure, httponly=True, samesite="lax")

    def fits(self, content: T) -> bool:
        """Whether browsers would keep it."""
        sealed = NONCE_BYTES + len(msgspec.json.encode(content)) + TAG_BYTES
        return len(SECURE_PREFIX) + len(self.name) + _base64_length(sealed) <= COOKIE_BYTES

    def _name(self, request: Request) -> str:
        return f"{SECURE_PREFIX}{self.name}" if _is_https(request) else self.name


def _base64_length(num_bytes: int) -> int:
    return (num_bytes + 2) // 3 * 4


def _is_https(request: Request) -> bool:
    return request.url.scheme == "https"
