"""Gateways whose providers are asked by nobody but the test."""

import asyncio
from contextlib import contextmanager

import pytest

from quernel.gateway.canary import Canary


@contextmanager
def no_canaries():
    """Gateways of this process ask their providers nothing by themselves."""

    async def wait(self):
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Canary, "watch", wait)
        yield
