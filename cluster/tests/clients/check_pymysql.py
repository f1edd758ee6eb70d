"""PyMySQL against a running server."""

import os
import tempfile

import pymysql
from pymysql.constants import CLIENT

import common

DATABASE = "damask_check_pymysql"


def connect(**options):
    return pymysql.connect(host=common.HOST, port=common.PORT, user=common.USER, **options)


def check_types(connection):
    with connection.cursor() as cursor:
        cursor.execute(common.create_table("a"))
        cursor.execute("SET time_zone = '+00:00'")
        for row in common.ROWS:
            assert cursor.execute(common.insert_into("a"), row) == 1
        connection.commit()
        cursor.execute("SELECT * FROM a ORDER BY id")
        common.check_rows(cursor.fetchall(), common.ROWS, "one by one")
        assert [column[0] for column in cursor.description] == common.NAMES

        cursor.execute(common.create_table("b"))
        assert cursor.executemany(common.insert_into("b"), common.ROWS) == len(common.ROWS)
        connection.commit()
        cursor.execute("SELECT * FROM b ORDER BY id DESC")
        common.check_rows(cursor.fetchall(), common.ROWS[::-1], "many at once")
        cursor.execute("SELECT * FROM b WHERE vb = %s", (common.ALL_BYTES,))
        common.check_rows(cursor.fetchall(), [common.HIGHEST], "found by bytes")


def check_transactions(connection):
    with connect(database=DATABASE, autocommit=True) as other:
        with connection.cursor() as cursor, other.cursor() as reader:
            cursor.execute("UPDATE a SET i32 = 5 WHERE id = 1")
            cursor.execute("DELETE FROM a WHERE id = 2")
            assert reader.execute("SELECT id FROM a WHERE i32 = 5") == 0
            connection.rollback()
            cursor.execute("SELECT * FROM a ORDER BY id")
            common.check_rows(cursor.fetchall(), common.ROWS, "rolled back")
            cursor.execute("UPDATE a SET i32 = 5 WHERE id = 1")
            connection.commit()
            assert reader.execute("SELECT id FROM a WHERE i32 = 5") == 1


def check_errors(connection):
    with connection.cursor() as cursor:
        for code, sql in common.MISTAKES:
            common.check_error(code, lambda: cursor.execute(sql.format(t="a")), pymysql.MySQLError)
    connection.rollback()
    common.check_error(1049, lambda: connect(database="no_such_database"), pymysql.MySQLError)
    common.check_error(1045, lambda: connect(password="wrong"), pymysql.MySQLError)


def check_generated_ids(connection):
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE g (id BIGINT AUTO_INCREMENT PRIMARY KEY, v INT)")
        cursor.execute("INSERT INTO g (v) VALUES (7)")
        first = cursor.lastrowid
        assert first > 0
        cursor.execute("INSERT INTO g (v) VALUES (8), (9)")
        assert cursor.rowcount == 2 and cursor.lastrowid > first
        connection.commit()
        cursor.execute("SELECT v FROM g WHERE id = %s", (first,))
        assert cursor.fetchone() == (7,)


def check_several_statements():
    flags = CLIENT.MULTI_STATEMENTS
    with connect(database=DATABASE, autocommit=True, client_flag=flags) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1; INSERT INTO g (v) VALUES (10); SELECT 'two', 3")
            assert cursor.fetchall() == ((1,),)
            assert cursor.nextset() and cursor.rowcount == 1
            assert cursor.nextset() and cursor.fetchall() == (("two", 3),)
            assert not cursor.nextset()
    with connect(database=DATABASE) as connection, connection.cursor() as cursor:
        several = "SELECT 1; SELECT 2"
        common.check_error(1064, lambda: cursor.execute(several), pymysql.MySQLError)


def check_files():
    with connect(database=DATABASE, autocommit=True, local_infile=True) as connection:
        with connection.cursor() as cursor, tempfile.TemporaryDirectory() as folder:
            cursor.execute("CREATE TABLE f (a INT PRIMARY KEY, b VARCHAR(20))")
            path = os.path.join(folder, "rows.csv")
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{i},row {i}\n" for i in range(1000))
            load = "LOAD DATA LOCAL INFILE %s INTO TABLE f FIELDS TERMINATED BY ','"
            assert cursor.execute(load, (path,)) == 1000
            cursor.execute("SELECT COUNT(*), MIN(a), MAX(b) FROM f")
            assert cursor.fetchone() == (1000, 0, "row 999")


def main():
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        cursor.execute(f"CREATE DATABASE {DATABASE}")
        connection.select_db(DATABASE)
        check_types(connection)
        check_transactions(connection)
        check_errors(connection)
        check_generated_ids(connection)
        check_several_statements()
        check_files()
        connection.ping(reconnect=False)
        cursor.execute(f"DROP DATABASE {DATABASE}")
    print("ok pymysql")


main()
