"""MySQL Connector/Python (its pure Python form) against a running server."""

import mysql.connector

import common

DATABASE = "damask_check_connector"

# The driver applies a binary TIME's sign to its days alone (26.10.0), so no negative ones here.
ROWS = [row[:-1] + (row[-1] and abs(row[-1]),) for row in common.ROWS]


def connect(**options):
    return mysql.connector.connect(
        host=common.HOST, port=common.PORT, user=common.USER, use_pure=True, ssl_disabled=True,
        **options,
    )


def check_types(connection):
    cursor = connection.cursor()
    cursor.execute("SET time_zone = '+00:00'")
    cursor.execute(common.create_table("a"))
    for row in ROWS:
        cursor.execute(common.insert_into("a"), row)
    connection.commit()
    cursor.execute("SELECT * FROM a ORDER BY id")
    common.check_rows(cursor.fetchall(), ROWS, "text")
    cursor.close()

    prepared = connection.cursor(prepared=True)
    cursor = connection.cursor()
    cursor.execute(common.create_table("b"))
    for row in ROWS:
        prepared.execute(common.insert_into("b"), row)
        assert prepared.rowcount == 1
    connection.commit()
    for table in ["a", "b"]:
        prepared.execute(f"SELECT * FROM {table} WHERE id >= %s ORDER BY id", (1,))
        common.check_rows(prepared.fetchall(), ROWS, f"prepared, table {table}")
        cursor.execute(f"SELECT * FROM {table} ORDER BY id")
        common.check_rows(cursor.fetchall(), ROWS, f"text, table {table}")
    for wanted in [2, 3, 99, 2]:
        prepared.execute("SELECT * FROM b WHERE id = %s", (wanted,))
        expected = [row for row in ROWS if row[0] == wanted]
        common.check_rows(prepared.fetchall(), expected, f"prepared, id {wanted}")
    prepared.close()
    cursor.close()
    connection.commit()


def check_transactions(connection):
    cursor = connection.cursor()
    connection.start_transaction()
    assert connection.in_transaction
    cursor.execute("DELETE FROM a")
    connection.rollback()
    assert not connection.in_transaction
    cursor.execute("SELECT * FROM a ORDER BY id")
    common.check_rows(cursor.fetchall(), ROWS, "rolled back")
    connection.commit()
    cursor.close()


def check_errors(connection):
    cursor = connection.cursor()
    for code, sql in common.MISTAKES:
        run = lambda: cursor.execute(sql.format(t="a"))
        common.check_error(code, run, mysql.connector.Error)
        connection.rollback()
    cursor.close()


def check_reset(connection):
    cursor = connection.cursor()
    cursor.execute("INSERT INTO b (id) VALUES (50)")
    cursor.close()
    connection.cmd_reset_connection()
    connection.database = DATABASE
    cursor = connection.cursor()
    cursor.execute("SELECT COUNT(*) FROM b WHERE id = 50")
    assert cursor.fetchone() == (0,)
    cursor.close()
    connection.rollback()
    connection.cmd_change_user(username=common.USER, password="", database=DATABASE)
    cursor = connection.cursor()
    cursor.execute("SELECT COUNT(*) FROM b")
    assert cursor.fetchone() == (len(ROWS),)
    cursor.close()


def main():
    connection = connect()
    cursor = connection.cursor()
    cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
    cursor.execute(f"CREATE DATABASE {DATABASE}")
    connection.database = DATABASE
    check_types(connection)
    check_transactions(connection)
    check_errors(connection)
    check_reset(connection)
    with connect(database=DATABASE, auth_plugin="caching_sha2_password") as other:
        assert other.is_connected()
    connection.cursor().execute(f"DROP DATABASE {DATABASE}")
    connection.close()
    print("ok mysql_connector")


main()
