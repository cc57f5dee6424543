"""Signing in with an identity provider: the authorization code flow of OpenID Connect, with PKCE, state and nonce.

Of what an issuer replies nothing is believed here: its token is the visitor's credential from then on, and the gateway
verifies that as any other. What is checked here is that the reply belongs to a sign-in which this browser began.

Source: https://openid.net/specs/openid-connect-core-1_0.html (section 3.1), https://www.rfc-editor.org/rfc/rfc7636
(PKCE), https://www.rfc-editor.org/rfc/rfc9207 (`iss` in the reply), https://www.rfc-editor.org/rfc/rfc9700 (practice).
"""

import hashlib
import hmac
import secrets
import time
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec

from quernel.errors import QuernelError

T = TypeVar("T", bound=msgspec.Struct)

ATTEMPT_SECONDS = 600
"""How long somebody may take at the issuer."""

FRESH_SECONDS = 600
"""How long an issuer's addresses are believed."""

SCOPES = ("openid", "email", "profile")
"""What is asked for: who it is, with the claims that an issuer's rules may require."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

MOST_CODE, MOST_SHOWN = 4096, 100
"""Characters of a code; and of an issuer's words in a message."""

RANDOM_BYTES = 32


class SignInError(Exception):
    """Somebody could not be signed in; the text says why, and what to do."""


class Fetch(Protocol):
    """Asks other servers for small JSON documents, such as `quernel.gateway.fetch.fetch_json_document`."""

    async def __call__(
        self, url: str, *, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The document of an address, or the reply to a form.

        Raises:
            QuernelError: There is none.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """An issuer by which visitors may sign in.

    Attributes:
        name: What it is called in addresses.
        label: What its button says.
        issuer: Its address, as its tokens have it.
        client_id: What it calls this gateway.
        client_secret: How this gateway proves that to it; `None` for a public client.
    """

    name: str
    label: str
    issuer: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)


class Attempt(msgspec.Struct, frozen=True):
    """A sign-in that has begun, as the browser's cookie keeps it.

    Attributes:
        door: Where.
        state: What the reply must repeat.
        nonce: What the token must repeat.
        verifier: What proves to the issuer that the code was asked for here.
        next_page: Where the visitor wanted to go.
        expires: Until when it counts, in seconds since 1970.
    """

    door: str
    state: str
    nonce: str
    verifier: str
    next_page: str
    expires: int


class _Discovery(msgspec.Struct):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    scopes_supported: list[str] | None = None
    token_endpoint_auth_methods_supported: list[str] | None = None
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(msgspec.Struct):
    id_token: str
    access_token: str | None = None


class CodeFlow:
    """Leads visitors to an issuer and back; for one event loop.

    Args:
        door: The issuer.
        fetch: Asks it.
        clock: Seconds since 1970.
    """

    def __init__(self, door: Door, fetch: Fetch, clock: Callable[[], float] = time.time) -> None:
        self.door = door
        self._fetch = fetch
        self._clock = clock
        self._found: tuple[float, _Discovery] | None = None

    async def begin(self, redirect_uri: str, next_page: str) -> tuple[Attempt, str]:
        """A sign-in to remember, and the address to send the visitor to.

        Args:
            redirect_uri: Where the issuer sends them back to.
            next_page: Where they want to go then.

        Raises:
            SignInError: The issuer cannot be asked.
        """
        found = await self._discover()
        attempt = Attempt(
            door=self.door.name,
            state=secrets.token_urlsafe(RANDOM_BYTES),
            nonce=secrets.token_urlsafe(RANDOM_BYTES),
            verifier=secrets.token_urlsafe(RANDOM_BYTES),
            next_page=next_page,
            expires=int(self._clock()) + ATTEMPT_SECONDS,
        )
        offered = SCOPES if found.scopes_supported is None else ("openid", *found.scopes_supported)
        query = {
            "response_type": "code",
            "client_id": self.door.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(scope for scope in SCOPES if scope in offered),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": challenge_of(attempt.verifier),
            "code_challenge_method": "S256",
        }
        mark = "&" if "?" in found.authorization_endpoint else "?"
        return attempt, f"{found.authorization_endpoint}{mark}{urlencode(query)}"

    async def finish(self, attempt: Attempt, reply: Mapping[str, str], redirect_uri: str) -> Sequence[str]:
        """The tokens that an issuer gives for its reply, the ID token first.

        Args:
            attempt: The sign-in that the browser remembers.
            reply: The query of the address that the issuer sent it back to.
            redirect_uri: That address.

        Raises:
            SignInError: It is no reply to this sign-in, or it says that there is none.
        """
        if attempt.expires <= self._clock():
            raise SignInError("The sign-in took longer than ten minutes. Begin again.")
        if not hmac.compare_digest(attempt.state.encode(), reply.get("state", "").encode("utf-8", "replace")):
            raise SignInError("The reply belongs to another sign-in than this browser's last one. Begin again.")
        found = await self._discover()
        iss = reply.get("iss")
        if iss != found.issuer and (iss is not None or found.authorization_response_iss_parameter_supported):
            raise SignInError(f"The reply is not from {self.door.label}. Begin again.")
        if "error" in reply:
            said = ascii(reply["error"][:MOST_SHOWN])[1:-1]
            raise SignInError(f"{self.door.label} did not sign you in: {said}.")
        code = reply.get("code", "")
        if not 0 < len(code) <= MOST_CODE:
            raise SignInError(f"The reply of {self.door.label} has no code. Begin again.")
        tokens = await self._exchange(found, code, attempt.verifier, redirect_uri)
        nonce = (claims_of(tokens.id_token) or {}).get("nonce")
        if not (isinstance(nonce, str) and hmac.compare_digest(nonce.encode(), attempt.nonce.encode())):
            raise SignInError(f"The token of {self.door.label} was made for another sign-in. Begin again.")
        access_token = tokens.access_token
        has_claims = access_token is not None and claims_of(access_token) is not None
        return (tokens.id_token, access_token) if access_token is not None and has_claims else (tokens.id_token,)

    async def _exchange(self, found: _Discovery, code: str, verifier: str, redirect_uri: str) -> _Tokens:
        """What the issuer gives for a code, which it takes once."""
        client_id, client_secret = self.door.client_id, self.door.client_secret
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        if client_secret is None:
            form["client_id"] = client_id
        elif "client_secret_basic" in (found.token_endpoint_auth_methods_supported or ("client_secret_basic",)):
            pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"  # RFC 6749, section 2.3.1
            headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": client_id, "client_secret": client_secret}
        try:
            answered = await self._fetch(found.token_endpoint, form=form, headers=headers)
        except QuernelError as error:
            raise SignInError(f"{self.door.label} gave no token for its reply. Begin again.") from error
        return self._decode(answered, _Tokens)

    async def _discover(self) -> _Discovery:
        """Where the issuer signs people in and gives tokens."""
        now = self._clock()
        if self._found is not None and 0 <= now - self._found[0] < FRESH_SECONDS:
            return self._found[1]
        url = f"{self.door.issuer.removesuffix('/')}/.well-known/openid-configuration"
        try:
            found = self._decode(await self._fetch(url), _Discovery)
        except QuernelError as error:
            raise SignInError(f"{self.door.label} does not answer now. Try again, or sign in with a key.") from error
        addresses = (found.authorization_endpoint, found.token_endpoint)
        if found.issuer != self.door.issuer or not all(_is_safe(address) for address in addresses):
            raise SignInError(f"{self.door.label} does not answer as it must. Sign in with a key.")
        self._found = now, found
        return found

    def _decode(self, document: bytes, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(document, type=shape)
        except (ValueError, RecursionError) as error:
            raise SignInError(f"{self.door.label} does not answer as it must. Sign in with a key.") from error


def challenge_of(verifier: str) -> str:
    """What the issuer is shown of a verifier before it sees that itself."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def claims_of(token: str) -> Mapping[str, Any] | None:
    """What a token says, its signature not being looked at; `None` where it is no token with claims."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (ValueError, RecursionError):
        return None


def _is_safe(address: str) -> bool:
    """Whether a browser may be sent to an address: it is encrypted, or on this machine."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    return is_safe and bool(parts.hostname) and address.isprintable() and not parts.fragment
