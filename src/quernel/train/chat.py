"""A language model behind OpenAI's chat completions: as much of it as writing training data takes."""

import asyncio
import time

import httpx

from quernel.client.retry import RetryPolicy
from quernel.errors import InvalidRequestError, SettingsError, UnavailableError

TOO_MANY = 429
SERVER_ERROR = 500
CLIENT_ERROR = 400
FORBIDDEN = (401, 403, 404)


class ChatEndpoint:
    """A model at an address; use it in an `async with` block.

    Args:
        url: The server's address, with or without `/v1` at its end.
        model: The model's name there.
        api_key: The server's key.
        temperature: How freely it writes.
        max_tokens: The longest answer.
        timeout: Seconds for one answer.
        retry: When a request is sent again.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        temperature: float = 0.7,
        max_tokens: int = 1_024,
        timeout: float = 300.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise SettingsError(f"{url!r} is no address.", param="url", hint="Write it like http://host:8000.")
        self._url = url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
        self._body = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
        self._retry = retry or RetryPolicy()
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._http = httpx.AsyncClient(headers=headers, timeout=timeout)

    async def __aenter__(self) -> "ChatEndpoint":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.aclose()

    async def complete(self, prompt: str, *, seed: int) -> str:
        """What the model answers to one message.

        Raises:
            InvalidRequestError: The server refused this message, as one that is too long; others may pass.
            SettingsError: It refuses all: a wrong key, no such model, no such address.
            UnavailableError: It could not be reached, or could not answer, after all attempts.
        """
        body = {**self._body, "messages": [{"role": "user", "content": prompt}], "seed": seed}
        attempt = 0
        while True:
            attempt += 1
            try:
                reply = await self._http.post(self._url, json=body)
            except httpx.HTTPError as error:
                status, headers, problem = None, httpx.Headers(), f"{type(error).__name__}: {error}"
            else:
                if reply.status_code < CLIENT_ERROR:
                    return self._content(reply)
                status, headers, problem = reply.status_code, reply.headers, f"{reply.status_code} {reply.text[:200]}"
            wait = self._retry.wait(attempt, status, headers, time.time())
            if wait is None:
                self._refuse(status, problem)
            else:
                await asyncio.sleep(wait)

    def _content(self, reply: httpx.Response) -> str:
        try:
            content = reply.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise SettingsError(
                f"{self._url} answered {reply.text[:80]!r}, which is no chat completion.", param="url"
            ) from error
        return content if isinstance(content, str) else ""

    def _refuse(self, status: int | None, problem: str) -> None:
        if status is None or status == TOO_MANY or status >= SERVER_ERROR:
            raise UnavailableError(f"{self._url} does not answer: {problem}.", hint="Try again; what is written stays.")
        if status in FORBIDDEN:
            raise SettingsError(f"{self._url} refuses: {problem}.", param="url", hint="See --url, --chat, --api-key.")
        raise InvalidRequestError(f"{self._url} refuses this message: {problem}.")
