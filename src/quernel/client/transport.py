"""What both clients need around HTTP: settings that were checked, and errors for answers that are none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import httpx

from quernel._version import __version__
from quernel.client.retry import RetryPolicy
from quernel.errors import QuernelError, SettingsError, UnavailableError
from quernel.protocols.error_body import decode_error


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client was told, checked.

    Attributes:
        base_url: Without a slash or `/v1` at its end.
        model: What is asked for where a call does not say.
        headers: Of every request.
        timeout: Seconds for one request.
        retry: When a request is sent again.
        concurrency: Requests under way at once, in one call.
        texts_per_request: Texts in one part.
    """

    base_url: str
    model: str | None
    headers: Mapping[str, str]
    timeout: float
    retry: RetryPolicy
    concurrency: int
    texts_per_request: int

    @classmethod
    def of(
        cls,
        base_url: str,
        model: str | None,
        api_key: str | None,
        *,
        timeout: float,
        retry: RetryPolicy | None,
        concurrency: int,
        texts_per_request: int,
    ) -> Self:
        """The settings of a client.

        Raises:
            SettingsError: A number is out of range, or `base_url` is no address.
        """
        numbers = {"timeout": timeout, "concurrency": concurrency, "texts_per_request": texts_per_request}
        for name, value in numbers.items():
            if not value > 0:
                raise SettingsError(f"{name} is {value}.", param=name, hint="Set more than 0.")
        if not base_url.startswith(("http://", "https://")):
            raise SettingsError(
                f"base_url is {base_url!r}.", param="base_url", hint="Write it like 'http://127.0.0.1:1234'."
            )
        headers = {"content-type": "application/json", "user-agent": f"quernel/{__version__}"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        address = base_url.rstrip("/").removesuffix("/v1")
        return cls(address, model, headers, timeout, retry or RetryPolicy(), concurrency, texts_per_request)


def failure_of(reply: httpx.Response) -> QuernelError:
    """The error that an answer is."""
    return decode_error(reply.status_code, reply.content)


def unreachable(base_url: str, error: httpx.TransportError) -> UnavailableError:
    """The error of a request that got no answer."""
    if isinstance(error, httpx.TimeoutException):
        failure = UnavailableError(f"{base_url} did not answer in time.", hint="Raise timeout, or send fewer texts.")
    else:
        reason = str(error) or type(error).__name__
        failure = UnavailableError(f"{base_url} cannot be reached: {reason}.", hint="Is the server running there?")
    failure.__cause__ = error
    return failure
