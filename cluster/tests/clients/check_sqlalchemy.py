"""SQLAlchemy (over PyMySQL) against a running server: DDL, inspection, DML, rollback."""

import datetime
import decimal

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import mysql

import common

DATABASE = "damask_check_sqlalchemy"
URL = f"mysql+pymysql://{common.USER}@{common.HOST}:{common.PORT}"

metadata = sa.MetaData()
people = sa.Table(
    "people",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(50), nullable=False, unique=True),
    sa.Column("age", mysql.INTEGER(unsigned=True)),
    sa.Column("height", sa.Double),
    sa.Column("balance", sa.Numeric(20, 4), server_default=sa.text("0")),
    sa.Column("active", sa.Boolean),
    sa.Column("photo", sa.LargeBinary),
    sa.Column("note", sa.Text),
    sa.Column("born", sa.Date),
    sa.Column("seen", mysql.DATETIME(fsp=6)),
    sa.Index("by_age", "age", "born"),
)
ANN = {
    "id": 1, "name": "Ann", "age": 4_000_000_000, "height": 1.72,
    "balance": decimal.Decimal("10.5000"), "active": True, "photo": bytes(range(256)),
    "note": "ñ 🐬", "born": datetime.date(1990, 5, 17),
    "seen": datetime.datetime(2024, 2, 29, 12, 0, 0, 123456),
}


def check_inspection(engine):
    inspector = sa.inspect(engine)
    assert DATABASE in inspector.get_schema_names()
    assert inspector.get_table_names() == ["people"], inspector.get_table_names()
    assert inspector.has_table("people") and not inspector.has_table("nobody")
    columns = {column["name"]: column for column in inspector.get_columns("people")}
    assert list(columns) == [column.name for column in people.columns]
    assert isinstance(columns["id"]["type"], sa.BigInteger)
    assert columns["id"]["autoincrement"] and not columns["id"]["nullable"]
    assert not columns["name"]["nullable"] and columns["name"]["type"].length == 50
    assert columns["age"]["type"].unsigned and columns["age"]["nullable"]
    balance = columns["balance"]["type"]
    assert (balance.precision, balance.scale) == (20, 4)
    assert columns["seen"]["type"].fsp == 6
    assert inspector.get_pk_constraint("people")["constrained_columns"] == ["id"]
    indexes = {index["name"]: index for index in inspector.get_indexes("people")}
    assert indexes["by_age"]["column_names"] == ["age", "born"]
    unique = [index for index in indexes.values() if index["unique"]]
    assert [index["column_names"] for index in unique] == [["name"]]
    assert inspector.get_foreign_keys("people") == []


def check_reflection(engine):
    reflected = sa.Table("people", sa.MetaData(), autoload_with=engine)
    assert reflected.columns.keys() == people.columns.keys()
    assert [column.name for column in reflected.primary_key] == ["id"]
    with engine.connect() as connection:
        row = connection.execute(sa.select(reflected)).mappings().one()
        # Without a declared type, DOUBLE comes as a decimal and BOOL as an integer.
        expected = {**ANN, "height": decimal.Decimal("1.7200000000"), "active": 1}
        assert dict(row) == expected, dict(row)


def check_rows(engine):
    with engine.begin() as connection:
        connection.execute(sa.insert(people), ANN)
    with engine.connect() as connection:
        assert dict(connection.execute(sa.select(people)).mappings().one()) == ANN
        connection.execute(sa.update(people).values(age=people.c.age + 1))
        assert connection.scalar(sa.select(people.c.age)) == ANN["age"] + 1
        connection.rollback()
        assert connection.scalar(sa.select(people.c.age)) == ANN["age"]
        connection.rollback()
        try:
            connection.execute(sa.insert(people), {"name": "Ann"})
        except sa.exc.IntegrityError as error:
            assert error.orig.args[0] == 1062, error
        else:
            raise AssertionError("a duplicate was let in")
        connection.rollback()
        for code, sql in [(1146, "SELECT * FROM nobody"), (1054, "SELECT x FROM people")]:
            try:
                connection.execute(sa.text(sql))
            except sa.exc.DBAPIError as error:
                assert error.orig.args[0] == code, error
            else:
                raise AssertionError(f"no error where {code} was due")
            connection.rollback()


def check_objects(engine):
    base = orm.declarative_base(metadata=metadata)

    class Person(base):
        __table__ = people

    with orm.Session(engine) as session:
        bob = Person(name="Bob", age=30, active=False)
        session.add(bob)
        session.add_all([Person(name=f"p{i}", age=i) for i in range(20)])
        session.flush()
        assert bob.id > 0 and bob.id != 1
        session.rollback()
        assert session.query(Person).count() == 1
        session.add(Person(name="Bob", age=30, active=False))
        session.commit()
        query = session.query(Person).filter(Person.age.between(20, 40)).order_by(Person.id)
        found = query.one()
        assert (found.name, found.active, found.photo) == ("Bob", False, None)
        assert found.balance == 0
        session.delete(found)
        session.commit()
        total = session.query(sa.func.count(), sa.func.sum(Person.balance)).one()
        assert total == (1, decimal.Decimal("10.5000")), total


def main():
    with sa.create_engine(URL).begin() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {DATABASE}"))
        connection.execute(sa.text(f"CREATE DATABASE {DATABASE}"))
    engine = sa.create_engine(f"{URL}/{DATABASE}?charset=utf8mb4", pool_pre_ping=True)
    metadata.create_all(engine)
    metadata.create_all(engine)
    check_inspection(engine)
    check_rows(engine)
    check_reflection(engine)
    check_objects(engine)
    metadata.drop_all(engine)
    assert sa.inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP DATABASE {DATABASE}"))
    print("ok sqlalchemy")


main()
