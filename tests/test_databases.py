"""What the tests stand on: a PostgreSQL database that a test has had is a new one for the next."""

import psycopg
import pytest

from tests.databases import COLUMNS, Databases

ROW = """
    INSERT INTO jobs (name, payload, run_at, attempts, created_at)
    VALUES ('a', '', now(), 0, now()) RETURNING id
"""


def test_the_next_test_finds_nothing_of_the_last(postgresql: Databases) -> None:
    """No row, no table, no number used up, and nobody connected."""
    with postgresql.one() as url:
        left = psycopg.connect(url)
        before = left.execute(COLUMNS).fetchall()
        left.execute("CREATE TABLE mine (id bigint)")
        assert left.execute(ROW).fetchone() == (1,)
        left.commit()
        left.execute("SELECT pg_advisory_lock(7)")
    with postgresql.one() as again, psycopg.connect(again) as connection:
        assert again == url
        assert connection.execute(COLUMNS).fetchall() == before
        assert connection.execute("SELECT * FROM jobs").fetchall() == []
        assert connection.execute(ROW).fetchone() == (1,)
        assert connection.execute("SELECT pg_try_advisory_lock(7)").fetchone() == (True,)
    with pytest.raises(psycopg.OperationalError):
        left.execute("SELECT 1")
    left.close()


def test_one_that_is_no_longer_as_it_was_is_not_used_again(postgresql: Databases) -> None:
    """A column too few: the next test gets another."""
    with postgresql.one() as url, psycopg.connect(url) as connection:
        connection.execute("ALTER TABLE jobs DROP COLUMN payload")
    with postgresql.one() as other:
        assert other != url


def test_two_at_a_time_are_two(postgresql: Databases) -> None:
    """Nobody shares one."""
    with postgresql.one() as one, postgresql.one() as other:
        assert one != other
