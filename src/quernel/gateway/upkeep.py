"""What a gateway does beside answering: look whether the books have changed, show that it lives, clean up, watch
providers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.errors import QuernelError
from quernel.gateway import ledger, schema, usage
from quernel.gateway.audit import forget_changes
from quernel.gateway.ids import now_ms
from quernel.gateway.opening import Parts

logger = logging.getLogger("quernel.gateway")

HEARTBEAT_SECONDS = 5.0
DEAD_MS = 30_000
"""A gateway that has not shown that it lives for so long is dead, and what it held is let go."""

TIDY_SECONDS = 60.0


class Upkeep:
    """Runs for as long as its context lasts.

    Args:
        parts: The gateway.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._tasks: list[asyncio.Task[None]] = []
        self._loading: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.beat()
        await self._parts.principals.look()
        # Told once here rather than by the first look of the watch, so that the first request finds all in place.
        self._parts.principals.on_change.append(self._providers_changed)
        self._tasks = [
            asyncio.create_task(self._parts.principals.watch()),
            asyncio.create_task(self._every(HEARTBEAT_SECONDS, self.beat)),
            asyncio.create_task(self._every(TIDY_SECONDS, self.tidy)),
            asyncio.create_task(self._parts.canary.watch()),
        ]
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._parts.gateway.drain()
        await self._parts.principals.write_uses()
        await self._parts.database.write(self._leave)

    async def beat(self) -> None:
        """Show that this gateway lives, and let go what dead ones held."""
        voided = await self._parts.database.write(self._beat)
        if voided:
            logger.warning("%d holds of gateways that are no more were let go.", voided)

    async def tidy(self) -> None:
        """Roll up usage, forget what is old, and write down which keys were used."""
        settings, database = self._parts.settings, self._parts.database
        await database.write(lambda connection: usage.roll_up(connection, now_ms()))
        for forget, keep_days in (
            (usage.forget, settings.usage_days),
            (usage.fold_hours, settings.hourly_days),
            (usage.forget_sums, settings.report_days),
            (usage.close_days, settings.ledger_days),
            (forget_changes, settings.audit_days),
        ):
            await database.write(partial(forget, now=now_ms(), keep_days=keep_days))
        await self._parts.principals.write_uses()

    def _beat(self, connection: Connection) -> int:
        table, now, mine = schema.instances, now_ms(), self._parts.gateway.instance
        if not connection.execute(sa.update(table).filter_by(id=mine).values(heartbeat=now)).rowcount:
            connection.execute(sa.insert(table), {"id": mine, "heartbeat": now})
        dead = connection.execute(sa.select(table.c.id).where(table.c.heartbeat < now - DEAD_MS)).scalars().all()
        voided = 0
        for instance in dead:
            voided += ledger.sweep(connection, instance)
            connection.execute(sa.delete(table).filter_by(id=instance))
        return voided + sum(ledger.sweep(connection, instance) for instance in self._unknown(connection, now))

    def _unknown(self, connection: Connection, now: int) -> Sequence[str]:
        """Gateways that hold something of old and are in no list: taken for dead, they held once more and died."""
        holds, instances = schema.holds.c, sa.select(schema.instances.c.id)
        found = sa.select(holds.instance).distinct()
        return (
            connection.execute(found.where(holds.time < now - DEAD_MS, holds.instance.not_in(instances)))
            .scalars()
            .all()
        )

    def _leave(self, connection: Connection) -> None:
        instance = self._parts.gateway.instance
        ledger.sweep(connection, instance)
        connection.execute(sa.delete(schema.instances).filter_by(id=instance))

    def _providers_changed(self) -> None:
        task = asyncio.get_running_loop().create_task(self._load_providers())
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def _load_providers(self) -> None:
        try:
            await self._parts.gateway.registry.load()
        except QuernelError as error:
            logger.error("Providers could not be read anew: %s", error)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except QuernelError as error:
                logger.error("Upkeep failed: %s", error)
