"""Who is signed in: a key or token in a cookie that only this gateway can open.

Nothing of a session is kept by the gateway. Every page asks the API with the credential itself, so one that was revoked
or has expired ends the session with it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from quernel.web.sealed import SealedCookie

COOKIE = "quernel-session"

LONGEST_SECONDS = 7 * 86_400


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
        session = self._cookie.read(request)
        return session if session is not None and session.expires > self.clock() else None

    def begin(self, request: Request, response: Response, credential: str, *, expires: float | None = None) -> None:
        """Sign a visitor in.

        Args:
            request: What they sent.
            response: What they get.
            credential: Their key or token, which the API has accepted.
            expires: When it ends, in seconds since 1970, if that is known.
        """
        session = self._session(credential, expires)
        self._cookie.write(request, response, session, seconds=max(session.expires - int(self.clock()), 0))

    def end(self, request: Request, response: Response) -> None:
        """Sign a visitor out."""
        self._cookie.delete(request, response)

    def fits(self, credential: str) -> bool:
        """Whether a credential is short enough for a cookie."""
        return self._cookie.fits(self._session(credential, None))

    def _session(self, credential: str, expires: float | None) -> Session:
        latest = self.clock() + LONGEST_SECONDS
        return Session(credential, int(latest if expires is None else min(expires, latest)))

    @property
    def _cookie(self) -> SealedCookie[Session]:
        return SealedCookie(COOKIE, Session, self.secret)


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
