import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from quernel.gateway import schema
from quernel.gateway.statement import WRITES, Statement, read_json, write_json

INSERT = Statement(sa.insert(schema.marks), ["name", "value"])
FIND = Statement(sa.select(schema.marks.c.value).where(schema.marks.c.name == sa.bindparam("wanted")))
RAISE = Statement(
    sa.update(schema.marks)
    .where(schema.marks.c.name == sa.bindparam("wanted"))
    .values(value=schema.marks.c.value + sa.bindparam("more"))
)


@pytest.mark.parametrize("name", ["plain", "O'Hara; DROP TABLE marks", "%s %(x)s ?", "Zürich 🙂"])
def test_a_statement_does_what_it_says_with_values_as_they_are(database, name):
    def operation(connection):
        INSERT.change(connection, {"name": name, "value": 2**62, "another": "is passed over"})
        assert RAISE.change(connection, {"wanted": name, "more": -5}) == 1
        assert RAISE.change(connection, {"wanted": "nobody", "more": 1}) == 0
        assert FIND.row(connection, {"wanted": "nobody"}) is None
        return FIND.row(connection, {"wanted": name})

    assert tuple(database.write_now(operation)) == (2**62 - 5,)
    as_usual = sa.select(schema.marks.c.value).filter_by(name=name)
    assert database.read_now(lambda connection: connection.execute(as_usual).scalar_one()) == 2**62 - 5


def test_what_is_written_belongs_to_the_transaction(database):
    with database.engine.begin() as connection:
        INSERT.change(connection, {"name": "gone", "value": 1})
        connection.rollback()
    assert database.read_now(lambda connection: FIND.row(connection, {"wanted": "gone"})) is None


def test_a_refusal_of_the_database_is_sqlalchemys_and_shows_no_values(database):
    def operation(connection):
        INSERT.change(connection, {"name": "twice", "value": 1})
        INSERT.change(connection, {"name": "twice", "value": 4711})

    with pytest.raises(DBAPIError) as caught, database.engine.begin() as connection:
        operation(connection)
    assert isinstance(caught.value, sa.exc.IntegrityError)
    assert "4711" not in str(caught.value)


def test_statements_that_write_are_counted(database):
    with database.engine.begin() as connection:
        before = connection.info.get(WRITES, 0)
        FIND.row(connection, {"wanted": "x"})
        assert connection.info.get(WRITES, 0) == before
        INSERT.change(connection, {"name": "x", "value": 1})
        assert connection.info[WRITES] == before + 1


def test_json_comes_back_as_it_was(database):
    attempts = [{"provider": "a", "ms": 1.5, "status": None}, ["key", "minute", 3]]
    insert = Statement(sa.insert(schema.audit), ["time", "actor", "action", "target", "detail"])
    find = Statement(sa.select(schema.audit.c.detail))
    row = {"time": 1, "actor": "a", "action": "b", "target": "c", "detail": write_json(attempts)}
    database.write_now(lambda connection: insert.change(connection, row))
    assert database.read_now(lambda connection: read_json(find.row(connection, {})[0])) == attempts
    as_usual = sa.select(schema.audit.c.detail)
    assert database.read_now(lambda connection: connection.execute(as_usual).scalar_one()) == attempts
