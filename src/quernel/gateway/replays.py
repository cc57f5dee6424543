"""Idempotency keys: a request that is sent again is answered again and paid for once.

Replies are kept nowhere, so the model is asked again; what is kept is which request a key stands for, as a digest under
the gateway's secret, for a day. A key that comes with another request is refused.
"""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.errors import ConflictError, InvalidRequestError
from quernel.gateway import schema
from quernel.gateway.limits import DAY_MS

MOST_CHARACTERS = 200
KEPT_MS = DAY_MS


def claim(connection: Connection, account: str, key: str, fingerprint: bytes, generation: str, *, now: int) -> str:
    """Take an idempotency key for a request.

    Args:
        connection: The transaction.
        account: Whose request it is.
        key: As its header has it.
        fingerprint: Of the request.
        generation: The id that the request has now.
        now: The time.

    Returns:
        The id that the request had at first: `generation` where it is new.

    Raises:
        ConflictError: The key stands for another request.
        InvalidRequestError: The key is too long, or no text.
    """
    if len(key) > MOST_CHARACTERS or not key.isprintable():
        raise InvalidRequestError(
            f"The idempotency key has {len(key)} characters, or some that cannot be printed.",
            param="idempotency-key",
            hint=f"Use at most {MOST_CHARACTERS} letters and digits.",
        )
    row = connection.execute(sa.select(schema.replays).filter_by(account=account, key=key)).one_or_none()
    taken = {"fingerprint": fingerprint, "generation": generation, "time": now}
    if row is None:
        connection.execute(sa.insert(schema.replays), {"account": account, "key": key, **taken})
        return generation
    if row.time < now - KEPT_MS:
        connection.execute(sa.update(schema.replays).filter_by(account=account, key=key).values(taken))
        return generation
    if bytes(row.fingerprint) != fingerprint:
        raise ConflictError(
            "The idempotency key stands for another request.",
            param="idempotency-key",
            hint="Use a new key for a new request.",
        )
    return str(row.generation)
