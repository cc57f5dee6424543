"""Statements of the hot path, compiled once and sent as they are.

A request is admitted and settled by ten small statements. Most of their time was SQLAlchemy's own, which looks at each
anew; as text they take a tenth of it. The text is still made by SQLAlchemy, for whichever database it is, so a
statement is written once and in its terms. Values go to the driver as they are: texts, numbers and bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

WRITES = "quernel_writes"
"""Where a connection counts the statements that write which were sent over it."""


class Statement:
    """A statement whose parameters are `sa.bindparam`s, or the columns of an insert.

    Args:
        clause: As SQLAlchemy has it.
        columns: Of an insert, what it gives.
    """

    def __init__(self, clause: Any, columns: Sequence[str] | None = None) -> None:
        self._clause = clause
        self._columns = columns
        self._writes = isinstance(clause, sa.Insert | sa.Update | sa.Delete)
        self._texts: dict[str, tuple[str, Sequence[str] | None]] = {}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """The driver's cursor, once the statement was executed with these values.

        Raises:
            DBAPIError: The database refuses.
        """
        dialect = connection.dialect
        text, names = self._texts.get(dialect.name) or self._compile(dialect)
        if self._writes:
            connection.info[WRITES] = connection.info.get(WRITES, 0) + 1
        given = values if names is None else [values[name] for name in names]
        cursor = connection.connection.cursor()
        try:
            cursor.execute(text, given)
        except dialect.loaded_dbapi.Error as error:
            is_lost = dialect.is_disconnect(error, connection.connection, cursor)
            if is_lost:
                connection.invalidate(error)
            raise sa.exc.DBAPIError.instance(
                text,
                None,
                error,
                dialect.loaded_dbapi.Error,
                connection_invalidated=is_lost,
                dialect=dialect,
                hide_parameters=True,
            ) from error
        return cursor

    def row(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """The first row, as a tuple; `None` where there is none."""
        cursor = self.run(connection, values)
        found = cursor.fetchone()
        cursor.close()
        return found

    def change(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """How many rows were changed."""
        cursor = self.run(connection, values)
        count: int = cursor.rowcount
        cursor.close()
        return count

    def _compile(self, dialect: sa.Dialect) -> tuple[str, Sequence[str] | None]:
        compiled = self._clause.compile(dialect=dialect, column_keys=self._columns)
        names = compiled.positiontup if compiled.positional else None
        self._texts[dialect.name] = str(compiled), names
        return self._texts[dialect.name]


def write_json(value: object) -> str:
    """A value for a column of JSON."""
    return orjson.dumps(value).decode()


def read_json(content: Any) -> Any:
    """The value in a column of JSON, which some drivers read themselves."""
    return orjson.loads(content) if isinstance(content, str) else content
