"""Verification of OIDC tokens: who sent a request, by the signature of an issuer that is trusted here.

The order is fixed. What the token says of itself chooses among what is configured and nothing else: its `iss` the
issuer, its `kid` the key, its `alg` one of the issuer's algorithms. Then the signature is checked, and only then what
the token claims: audience, times, required claims, account. Addresses and keys in a token (`jku`, `jwk`, `x5u`, `x5c`)
are not read.

A key that the issuer withdraws still opens the gateway until the keys are fetched again (`quernel.gateway.jwks`), and
for at most `CACHE_SECONDS` more to a token that was just seen.

Source: https://www.rfc-editor.org/rfc/rfc7519 (tokens), https://www.rfc-editor.org/rfc/rfc8725 (how they go wrong).
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode
from msgspec import UNSET, Meta, UnsetType

from quernel.errors import AuthenticationError, PermissionDeniedError, SettingsError
from quernel.gateway import issuers
from quernel.gateway.fetch import Fetch
from quernel.gateway.issuers import MAX_LABEL, SLUG, Issuer, fill, plain_value, satisfies
from quernel.gateway.jwks import IssuerKeys

MAX_TOKEN_BYTES = 16 * 1024

CACHE_SECONDS = 60
"""Longest time for which a token that was accepted is accepted unseen; never beyond its `exp`."""

MAX_CACHED_TOKENS = 4096

ALGORITHMS = {name: JWSRegistry.algorithms[name] for name in issuers.ALGORITHMS}
"""How signatures are checked. What is not in here cannot be asked for: `none`, `HS256`."""

TYPES = frozenset({"jwt", "at+jwt"})
"""Values of `typ`, without regard to case and `application/`. Logout tokens and the like are no credentials."""

DIGEST_CLAIMS = ("owner", "project", "environment")

MAX_SHOWN = 80
"""Characters of a token's `iss`, `aud` or `kid` in a message."""

_SHAPE = re.compile(r"(?P<signed>(?P<header>e[w-z0-9_-][\w-]*)\.(?P<payload>[\w-]+))\.(?P<signature>[\w-]*)", re.ASCII)
"""Three segments of base64url, the first of which begins with `{`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a token speaks for.

    Attributes:
        issuer: Name of the issuer's table.
        subject: The token's `sub`.
        account: The account that pays.
        is_by_claim: Whether a claim names it, rather than the issuer's table.
        user: The user, if the issuer's table maps one.
        tags: Tags for what is used.
        project: The project, if the issuer's table maps one.
        scopes: What it may do.
        auto_provision: Whether the account is to be made if it does not exist.
        expires_at: The token's `exp`, in seconds since 1970.
        digest: SHA-256 in hexadecimal digits of what stays the same from one token to the next of the same origin.
    """

    issuer: str
    subject: str
    account: str
    is_by_claim: bool
    user: str | None
    tags: tuple[str, ...]
    project: str | None
    scopes: tuple[str, ...]
    auto_provision: bool
    expires_at: float
    digest: str


Seconds = Annotated[float, Meta(ge=0, le=2**53)]
"""Since 1970, as times are in a token."""


Subject = Annotated[str, Meta(max_length=MAX_LABEL, pattern=r"\A[ -~]+\Z")]
"""ASCII, by OpenID Connect Core 1.0, section 2; printable, since it is written to logs."""


class _Header(msgspec.Struct):
    alg: str
    kid: str
    typ: str = "JWT"
    crit: Any | UnsetType = UNSET


class _Registered(msgspec.Struct):
    """The claims that every token has, and those that have a meaning where it has them."""

    iss: str
    sub: Subject
    aud: str | list[str]
    exp: Seconds
    nbf: Seconds | None = None
    iat: Seconds | None = None


@dataclass(frozen=True, slots=True)
class _Token:
    """A token that was taken apart and not verified."""

    header: _Header
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class _Accepted:
    """Whom a token was accepted for, and when that needs no second look."""

    identity: Identity
    since: float
    until: float


def looks_like_jwt(text: str) -> bool:
    """Whether a credential is a token for `OidcVerifier` rather than an API key."""
    return _SHAPE.fullmatch(text) is not None


class OidcVerifier:
    """Accepts the tokens of trusted issuers; for one event loop.

    Args:
        issuers: Who is trusted. Of several that a token may be from, the first that accepts it counts.
        fetch: What gives the JSON document of an address, such as `quernel.gateway.fetch.fetch_json_document`.
        clock: Seconds since 1970.

    Raises:
        SettingsError: Two issuers have the same name.
    """

    def __init__(self, issuers: Sequence[Issuer], fetch: Fetch, clock: Callable[[], float] = time.time) -> None:
        names = [issuer.name for issuer in issuers]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise SettingsError(f"Two OIDC issuers have the name {twice!r}.", param="issuers")
        self._issuers = tuple(issuers)
        self._clock = clock
        # Issuers that differ in what they allow, not in their keys, fetch them once.
        sources = {_source(issuer): IssuerKeys(issuer, fetch, clock) for issuer in issuers}
        self._keys = {issuer.name: sources[_source(issuer)] for issuer in issuers}
        self._accepted: OrderedDict[bytes, _Accepted] = OrderedDict()

    async def verify(self, token: str) -> Identity:
        """Who a token speaks for.

        Raises:
            AuthenticationError: It is no token, or not one of an issuer that is trusted here, or not valid now.
            PermissionDeniedError: It is valid, but the issuer's claim rules do not let it in.
            UnavailableError: The issuer's keys cannot be fetched.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise _refusal(f"it is longer than {MAX_TOKEN_BYTES} bytes")
        fingerprint = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        accepted = self._accepted.get(fingerprint)
        if accepted is None or not accepted.since <= self._clock() < accepted.until:
            self._accepted.pop(fingerprint, None)
            accepted = await self._accept(_take_apart(token))
            self._accepted[fingerprint] = accepted
            if len(self._accepted) > MAX_CACHED_TOKENS:
                self._accepted.popitem(last=False)
        self._accepted.move_to_end(fingerprint)
        return accepted.identity

    async def _accept(self, token: _Token) -> _Accepted:
        iss = token.claims.get("iss")
        if not isinstance(iss, str):
            raise _refusal("it has no iss")
        candidates = [issuer for issuer in self._issuers if issuer.recognises(iss)]
        if not candidates:
            raise _refusal(f"its iss {_shown(iss)} is not an issuer that is trusted here")
        refusals: list[AuthenticationError | PermissionDeniedError] = []
        for issuer in candidates:
            try:
                await self._check_signature(issuer, token)
                return _accept_claims(issuer, token.claims, self._clock())
            except (AuthenticationError, PermissionDeniedError) as refusal:
                refusals.append(refusal)
        # A token that only lacks a claim came further than one for another audience.
        raise next((refusal for refusal in refusals if isinstance(refusal, PermissionDeniedError)), refusals[0])

    async def _check_signature(self, issuer: Issuer, token: _Token) -> None:
        header = token.header
        if header.alg not in issuer.algorithms:
            raise _refusal(f"its algorithm is not one of {', '.join(issuer.algorithms)}")
        algorithm = ALGORITHMS[header.alg]
        key = await self._keys[issuer.name].find(header.kid, algorithm.key_type)
        if key is None:
            raise _refusal(f"the issuer has no {algorithm.key_type} key with its kid {_shown(header.kid)}")
        try:
            algorithm.check_key(key)
            is_valid = algorithm.verify(token.signed, token.signature, key)
        except (JoseError, ValueError) as error:
            raise _refusal(f"the issuer's key {_shown(header.kid)} is not for its algorithm") from error
        if not is_valid:
            raise _refusal("its signature is wrong")


def _source(issuer: Issuer) -> tuple[str | None, ...]:
    """What an issuer's keys depend on."""
    return (issuer.jwks_url,) if issuer.jwks_url is not None else (None, issuer.issuer, *issuer.jwks_hosts)


def _take_apart(token: str) -> _Token:
    """The parts of a token.

    Raises:
        AuthenticationError: It is none, or one that asks for what is not understood here.
    """
    found = _SHAPE.fullmatch(token)
    if found is None:
        raise _refusal("it is not three parts in base64url with dots between them")
    try:
        header = msgspec.json.decode(urlsafe_b64decode(found["header"].encode()), type=_Header)
        claims = msgspec.json.decode(urlsafe_b64decode(found["payload"].encode()), type=dict[str, Any])
        signature = urlsafe_b64decode(found["signature"].encode())
    except (ValueError, RecursionError) as error:
        raise _refusal("its parts are not JSON in base64url, or its header lacks alg or kid") from error
    if header.crit is not UNSET:
        raise _refusal("its header has crit, and no extension is understood here")
    if header.typ.lower().removeprefix("application/") not in TYPES:
        raise _refusal("its typ is not JWT")
    return _Token(header, claims, found["signed"].encode(), signature)


def _accept_claims(issuer: Issuer, claims: Mapping[str, Any], now: float) -> _Accepted:
    """Whom a token of an issuer is accepted for, its signature being right."""
    try:
        registered = msgspec.convert(claims, _Registered)
    except msgspec.ValidationError as error:
        raise _refusal("its sub, aud, exp, nbf or iat is missing or cannot be as it is") from error
    audiences = [registered.aud] if isinstance(registered.aud, str) else registered.aud
    if not set(audiences) & set(issuer.audience):
        raise _refusal(f"its aud {_shown(', '.join(audiences))} is not one that is accepted of its issuer")
    until = _check_times(issuer, registered, now)
    if fill(issuer.issuer, claims) != registered.iss:
        raise _forbidden(issuer, "its iss and its claims name different owners")
    for path, allowed in issuer.required_claims.items():
        if not satisfies(claims, path, allowed):
            raise _forbidden(issuer, f"its claim {path} is missing, or not one that is let in")
    account = fill(issuer.account, claims)
    if account is None or SLUG.fullmatch(account) is None:
        raise _forbidden(issuer, f"its claims do not make {issuer.account} the name of an account")
    tags = (fill(tag, claims) for tag in issuer.tags)
    identity = Identity(
        issuer=issuer.name,
        subject=registered.sub,
        account=account,
        is_by_claim=issuer.account != account,
        user=_label(issuer, "user", issuer.user, claims),
        tags=tuple(tag for tag in tags if tag is not None),
        project=_label(issuer, "project", issuer.project, claims),
        scopes=issuer.scopes,
        auto_provision=issuer.auto_provision,
        expires_at=registered.exp,
        digest=_digest(registered, sorted(audiences), claims),
    )
    return _Accepted(identity, now, until)


def _check_times(issuer: Issuer, registered: _Registered, now: float) -> float:
    """The moment up to which a token needs no second look; refused where it is not valid now."""
    leeway, max_age, issued = issuer.leeway_seconds, issuer.max_age_seconds, registered.iat
    if now >= registered.exp + leeway:
        raise _refusal("it has expired")
    if registered.nbf is not None and registered.nbf > now + leeway:
        raise _refusal("it is not valid yet (nbf); is a clock wrong?")
    if issued is not None and issued > now + leeway:
        raise _refusal("it was issued in the future (iat); is a clock wrong?")
    if max_age is None:
        return min(registered.exp, now + CACHE_SECONDS)
    if issued is None:
        raise _refusal("it has no iat, by which its age is known")
    if now >= issued + max_age + leeway:
        raise _refusal(f"it was issued more than {max_age} seconds ago")
    return min(registered.exp, issued + max_age, now + CACHE_SECONDS)


def _label(issuer: Issuer, name: str, template: str | None, claims: Mapping[str, Any]) -> str | None:
    if template is None:
        return None
    label = fill(template, claims)
    if label is None:
        raise _forbidden(issuer, f"it lacks a claim of {template}, which names its {name}")
    return label


def _digest(registered: _Registered, audiences: list[str], claims: Mapping[str, Any]) -> str:
    origin = [registered.iss, registered.sub, audiences, *(plain_value(claims.get(name)) for name in DIGEST_CLAIMS)]
    return hashlib.sha256(msgspec.json.encode(origin)).hexdigest()


def _refusal(reason: str) -> AuthenticationError:
    return AuthenticationError(f"The OIDC token is not accepted: {reason}.")


def _forbidden(issuer: Issuer, reason: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"The OIDC token is not accepted: {reason} (issuer {issuer.name!r}).")


def _shown(text: str) -> str:
    """A value of a token for a message: short, and nothing in it that a terminal or a log would act on."""
    return ascii(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")
