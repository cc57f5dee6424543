"""The public keys of one issuer of OIDC tokens, fetched when they are needed and kept for a while.

Keys are asked for anew when they are ten minutes old, or when a token names one that is not there (keys are changed
without notice); but at most every 30 seconds and once at a time, so that invented names cost the issuer nothing. An
issuer that cannot be reached leaves the keys that are known in force, for a day at most.

Source: https://www.rfc-editor.org/rfc/rfc7517 (keys), https://openid.net/specs/openid-connect-discovery-1_0.html.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key
from joserfc.util import base64_to_int

from quernel.errors import FailureKind, ProviderError, UnavailableError
from quernel.gateway.fetch import Fetch, host_of
from quernel.gateway.issuers import Issuer

logger = logging.getLogger("quernel.gateway")

T = TypeVar("T")

FRESH_SECONDS = 600
"""Keys that are younger are not asked for again."""

RETRY_SECONDS = 30
"""Least time from one attempt to the next."""

MAX_AGE_SECONDS = 24 * 3600
"""Keys that are older do not count, though no others can be had."""

PUBLIC_MEMBERS: Mapping[str, tuple[str, ...]] = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
"""What is read of a key of each type. Certificates and addresses that it may have besides are not."""

USAGE_MEMBERS = frozenset({"use", "key_ops", "alg"})

SECRET_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""Of private keys, and of shared secrets (type `oct`)."""

LEAST_RSA_BITS = 2048
"""NIST SP 800-131A, revision 2."""


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


class IssuerKeys:
    """The keys of an issuer, for one event loop.

    Args:
        issuer: Whose they are.
        fetch: What gives the document of an address.
        clock: Seconds since 1970.
    """

    def __init__(self, issuer: Issuer, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._keys: Mapping[tuple[str, str], Key] = {}
        self._fetched_at = self._attempted_at = -math.inf
        self._failure: UnavailableError | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._has_warned = False

    async def find(self, kid: str, key_type: str) -> Key | None:
        """The key of that name and type (`RSA`, `EC`, `OKP`), `None` where the issuer has none.

        Raises:
            UnavailableError: It is not among the keys that are known, and the issuer cannot be asked.
        """
        key = self._known(kid, key_type)
        if key is None or self._passed(self._fetched_at) >= FRESH_SECONDS:
            if self._refreshing is None and self._passed(self._attempted_at) >= RETRY_SECONDS:
                self._attempted_at = self._clock()
                self._refreshing = asyncio.create_task(self._refresh())
            # While the issuer is out of reach, what is known is used without waiting for it.
            if self._refreshing is not None and (key is None or self._failure is None):
                # Whoever goes away while waiting must not take the others' keys along.
                await asyncio.shield(self._refreshing)
            key = self._known(kid, key_type)
        if key is None and self._failure is not None:
            unavailable = UnavailableError(f"The keys of the OIDC issuer {self._issuer.name!r} cannot be fetched now.")
            unavailable.retry_after = RETRY_SECONDS
            raise unavailable from self._failure
        return key

    def _known(self, kid: str, key_type: str) -> Key | None:
        return self._keys.get((kid, key_type)) if self._passed(self._fetched_at) < MAX_AGE_SECONDS else None

    def _passed(self, since: float) -> float:
        """Seconds since then; endless where the clock was set back, so that nothing lasts longer for it."""
        seconds = self._clock() - since
        return seconds if seconds >= 0 else math.inf

    async def _refresh(self) -> None:
        try:
            url = self._issuer.jwks_url or await self._discover()
            self._keys = self._usable(_decode(await self._fetch(url), _KeySet, url).keys)
        except UnavailableError as failure:
            self._failure = failure
            logger.warning("The keys of the OIDC issuer %s cannot be fetched: %s", self._issuer.name, failure)
        else:
            self._failure = None
            self._fetched_at = self._clock()
        finally:
            self._refreshing = None

    async def _discover(self) -> str:
        """Where the issuer says that its keys are, on a host on which it may say so."""
        issuer = self._issuer
        url = f"{issuer.issuer.removesuffix('/')}/.well-known/openid-configuration"
        found = _decode(await self._fetch(url), _Discovery, url)
        if found.issuer != issuer.issuer:
            raise ProviderError(f"{url} is the document of another issuer.", kind=FailureKind.BAD_REPLY)
        hosts = {host_of(issuer.issuer), *(host_of(f"https://{host}") for host in issuer.jwks_hosts)}
        if host_of(found.jwks_uri) not in hosts:
            raise ProviderError(
                f"{url} names keys on a host that is not allowed.",
                kind=FailureKind.BAD_REPLY,
                hint="If it is right, add the host to jwks_hosts.",
            )
        return found.jwks_uri

    def _usable(self, jwks: list[dict[str, Any]]) -> dict[tuple[str, str], Key]:
        """The keys by name and type; of two with the same, the first."""
        keys: dict[tuple[str, str], Key] = {}
        has_secrets = False
        for jwk in jwks:
            if SECRET_MEMBERS & jwk.keys():
                has_secrets = True
            elif isinstance(kid := jwk.get("kid"), str) and (key := _import_key(jwk)) is not None:
                keys.setdefault((kid, key.key_type), key)
        if has_secrets and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "The OIDC issuer %s publishes keys that must be secret; they are ignored.", self._issuer.name
            )
        return keys


def _import_key(jwk: Mapping[str, Any]) -> Key | None:
    """A public key; `None` where it is broken, weak, or of a type that no accepted signature has."""
    try:
        if jwk["kty"] == "RSA" and base64_to_int(jwk["n"]).bit_length() < LEAST_RSA_BITS:
            return None
        if jwk["kty"] == "OKP" and jwk["crv"] != "Ed25519":
            return None
        members = {member: jwk[member] for member in ("kty", *PUBLIC_MEMBERS[jwk["kty"]])}
        return JWKRegistry.import_key(members | {member: jwk[member] for member in USAGE_MEMBERS & jwk.keys()})
    except (JoseError, ValueError, TypeError, KeyError):
        return None


def _decode(document: bytes, shape: type[T], url: str) -> T:
    try:
        return msgspec.json.decode(document, type=shape)
    except (ValueError, RecursionError) as error:
        raise ProviderError(f"{url} does not answer as an OIDC issuer does.", kind=FailureKind.BAD_REPLY) from error
