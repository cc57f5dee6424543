"""Clients of a Quernel server: `Client`, and `AsyncClient` for asynchronous code."""

from quernel.client.aio import AsyncClient
from quernel.client.retry import RetryPolicy
from quernel.client.sync import Client

__all__ = ["AsyncClient", "Client", "RetryPolicy"]
