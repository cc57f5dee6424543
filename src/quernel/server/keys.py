"""API keys: who may ask, and who may change what is served."""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import Headers

from quernel.errors import AuthenticationError, PermissionDeniedError, SettingsError

PUBLIC = frozenset({"/", "/health", "/ping", "/ready", "/metrics", "/docs", "/openapi.json"})
"""Paths that anyone may `GET`: they tell nothing of what was asked, and probes have no keys."""

KEY_HEADERS = ("x-api-key", "api-key")
"""Where a key may stand besides `authorization: Bearer`: as Anthropic's and Azure's clients have it."""


class Keys:
    """The keys of a server. It keeps only their digests, and compares all of them in the same time.

    Args:
        keys: Those that open the routes that ask models; none where no key is needed.
        admin_key: The one that opens all routes; `None` where nobody may change what is served.
    """

    def __init__(self, keys: Iterable[str] = (), admin_key: str | None = None) -> None:
        self._digests = [_digest(key) for key in keys]
        self._admin = None if admin_key is None else _digest(admin_key)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, headers: Headers) -> None:
        """Refuse a request that has no key of this server, if it has any.

        Raises:
            AuthenticationError: No key, or another.
        """
        if not self._digests:
            return
        given = given_key(headers)
        if given is None:
            raise AuthenticationError(
                "You didn't provide an API key.", hint="Send it in the header 'authorization: Bearer KEY'."
            )
        digest = _digest(given)
        known = [*self._digests, *([] if self._admin is None else [self._admin])]
        # Every key is compared, whichever fits.
        if not sum(hmac.compare_digest(digest, one) for one in known):
            raise AuthenticationError("Incorrect API key provided.", hint="Ask whoever runs this server for one.")

    def check_admin(self, headers: Headers) -> None:
        """Refuse a request that may not change what is served.

        Raises:
            AuthenticationError: No key.
            PermissionDeniedError: Another than the admin's, or there is none.
        """
        if self._admin is None:
            raise PermissionDeniedError(
                "This server lets nobody change its models.", hint="Start it with an admin key (QUERNEL_ADMIN_KEY)."
            )
        given = given_key(headers)
        if given is None:
            raise AuthenticationError(
                "You didn't provide an API key.", hint="Send the admin key in 'authorization: Bearer KEY'."
            )
        if not hmac.compare_digest(_digest(given), self._admin):
            raise PermissionDeniedError("This key may not change models.", hint="Use the admin key.")


def read_keys(file: Path) -> list[str]:
    """The keys in a file, one a line; empty lines and what follows `#` are passed over.

    Raises:
        SettingsError: The file cannot be read, or holds no key.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}.", param="api_key_file") from error
    keys = [key for line in lines if (key := line.partition("#")[0].strip())]
    if not keys:
        raise SettingsError(f"{file} holds no key.", param="api_key_file", hint="Write one a line.")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def given_key(headers: Headers) -> str | None:
    """The key in the headers of a request; `None` where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return next((found for name in KEY_HEADERS if (found := headers.get(name))), None)
