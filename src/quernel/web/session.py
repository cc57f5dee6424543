"""Who is signed in: a key or token in a cookie that only this gateway can open.

Nothing of a session is kept by the gateway. Every page asks the API with the credential itself, so one that was revoked
or has expired ends the session with it.
"""

import os
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.requests import Request
from starlette.responses import Response

COOKIE, SECURE_COOKIE = "quernel-session", "__Host-quernel-session"
"""The second is for HTTPS: browsers then take it from this host alone, and never send it without encryption."""

PURPOSE = b"session"
NONCE_BYTES = 12
LONGEST_SECONDS = 7 * 86_400
MAX_CREDENTIAL = 3000
"""Characters: a cookie has 4,096 bytes in all."""


class Session(msgspec.Struct, frozen=True):
    """A visitor who is signed in.

    Attributes:
        credential: Their key or token.
        expires: When the session ends, in seconds since 1970.
    """

    credential: str
    expires: int


@dataclass(frozen=True)
class Sessions:
    """Opens and makes cookies of sessions.

    Attributes:
        secret: 32 bytes that only the gateways of this database have.
        clock: Seconds since 1970.
    """

    secret: bytes
    clock: Callable[[], float] = time.time

    def read(self, request: Request) -> Session | None:
        """Who has sent a request; `None` where nobody is signed in."""
        sealed = request.cookies.get(_cookie_of(request))
        if sealed is None:
            return None
        try:
            content = urlsafe_b64decode(sealed.encode("ascii"))
            opened = AESGCM(self.secret).decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], PURPOSE)
            session = msgspec.json.decode(opened, type=Session)
        except (ValueError, InvalidTag, msgspec.MsgspecError):
            return None
        return session if session.expires > self.clock() else None

    def begin(self, request: Request, response: Response, credential: str, *, seconds: float | None = None) -> None:
        """Sign a visitor in.

        Args:
            request: What they sent.
            response: What they get.
            credential: Their key or token, which the API has accepted.
            seconds: For how long, if not for the longest.
        """
        lasts = int(min(seconds or LONGEST_SECONDS, LONGEST_SECONDS))
        nonce = os.urandom(NONCE_BYTES)
        content = orjson.dumps({"credential": credential, "expires": int(self.clock()) + lasts})
        sealed = urlsafe_b64encode(nonce + AESGCM(self.secret).encrypt(nonce, content, PURPOSE)).decode()
        secure = _is_https(request)
        response.set_cookie(
            _cookie_of(request), sealed, max_age=lasts, path="/", secure=secure, httponly=True, samesite="lax"
        )

    def end(self, request: Request, response: Response) -> None:
        """Sign a visitor out."""
        secure = _is_https(request)
        response.delete_cookie(_cookie_of(request), path="/", secure=secure, httponly=True, samesite="lax")


def _is_https(request: Request) -> bool:
    return request.url.scheme == "https"


def _cookie_of(request: Request) -> str:
    return SECURE_COOKIE if _is_https(request) else COOKIE


def is_of_this_site(request: Request) -> bool:
    """Whether a request that changes something comes from one of our own pages, as its browser says.

    Browsers say where a request comes from and pages cannot change it, so no token is needed in forms.
    Source: https://words.filippo.io/csrf/; https://developer.mozilla.org/docs/Web/HTTP/Headers/Sec-Fetch-Site
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] == request.headers.get("host")
