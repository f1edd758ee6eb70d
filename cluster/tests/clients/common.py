"""What the Python checks share: one table of all types, its rows, and how to compare them.

It must never know one driver's habits beyond the way it hands out bytes.
"""

import datetime
import decimal
import os

HOST = os.environ.get("DAMASK_HOST", "127.0.0.1")
PORT = int(os.environ.get("DAMASK_PORT", "4000"))
USER = "root"

COLUMNS = [
    ("id", "BIGINT NOT NULL"),
    ("i8", "TINYINT"),
    ("u8", "TINYINT UNSIGNED"),
    ("i16", "SMALLINT"),
    ("u16", "SMALLINT UNSIGNED"),
    ("i24", "MEDIUMINT"),
    ("u24", "MEDIUMINT UNSIGNED"),
    ("i32", "INT"),
    ("u32", "INT UNSIGNED"),
    ("i64", "BIGINT"),
    ("u64", "BIGINT UNSIGNED"),
    ("f32", "FLOAT"),
    ("f64", "DOUBLE"),
    ("n", "DECIMAL(20,6)"),
    ("yes", "BOOL"),
    ("c", "CHAR(10)"),
    ("vc", "VARCHAR(100)"),
    ("t", "TEXT"),
    ("bin", "BINARY(4)"),
    ("vb", "VARBINARY(300)"),
    ("bl", "BLOB"),
    ("d", "DATE"),
    ("dt", "DATETIME"),
    ("dt6", "DATETIME(6)"),
    ("ts", "TIMESTAMP NULL DEFAULT NULL"),
    ("tm", "TIME"),
]
NAMES = [name for name, _ in COLUMNS]


def create_table(name):
    """The table's definition."""
    columns = ", ".join(f"{column} {ty}" for column, ty in COLUMNS)
    return f"CREATE TABLE {name} ({columns}, PRIMARY KEY (id))"


def insert_into(name):
    """An INSERT with one placeholder for each column."""
    places = ", ".join(["%s"] * len(NAMES))
    return f"INSERT INTO {name} ({', '.join(NAMES)}) VALUES ({places})"


ALL_BYTES = bytes(range(256))
DAY = datetime.date
AT = datetime.datetime
N = decimal.Decimal

LOWEST = (
    1, -128, 0, -(2**15), 0, -(2**23), 0, -(2**31), 0, -(2**63), 0,
    -0.25, -1.7976931348623157e308, N("-99999999999999.999999"), 0,
    "", "", "", b"\0\0\0\0", b"", b"",
    DAY(1000, 1, 1), AT(1000, 1, 1), AT(1000, 1, 1, 0, 0, 0, 1), AT(1970, 1, 2),
    datetime.timedelta(hours=-838, minutes=-59, seconds=-59),
)
HIGHEST = (
    2, 127, 2**8 - 1, 2**15 - 1, 2**16 - 1, 2**23 - 1, 2**24 - 1, 2**31 - 1, 2**32 - 1,
    2**63 - 1, 2**64 - 1,
    16384.5, 0.1, N("99999999999999.999999"), 1,
    "0123456789", "é" * 100, "日本語 🐬 " * 50, b"\xff\xfe\0\x80", ALL_BYTES, ALL_BYTES * 20,
    DAY(9999, 12, 31), AT(9999, 12, 31, 23, 59, 59), AT(9999, 12, 31, 23, 59, 59, 999999),
    AT(2038, 1, 19, 3, 14, 7), datetime.timedelta(hours=838, minutes=59, seconds=59),
)
NOTHING = (3,) + (None,) * (len(NAMES) - 1)
ODD = (
    4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1.5, -1e-5, N("0.000001"), 1,
    "'\"\\", "%_;--", "a'b\"c\\d\ne\tf\0g\x1ah", b"'\"\\\0", b"\\'\xff", b"%s;--\r\n",
    DAY(2024, 2, 29), AT(2024, 2, 29, 12, 34, 56), AT(2024, 2, 29, 12, 34, 56, 120000),
    AT(2024, 2, 29, 12, 34, 56), datetime.timedelta(seconds=1),
)
ROWS = [LOWEST, HIGHEST, NOTHING, ODD]


def plain(value):
    """A value as compared: drivers give binary strings as bytes or bytearray."""
    return bytes(value) if isinstance(value, bytearray) else value


def check_rows(got, expected, what):
    """Compares rows value by value and type by type, and names the column that differs."""
    got = [tuple(plain(value) for value in row) for row in got]
    assert len(got) == len(expected), f"{what}: {len(got)} rows instead of {len(expected)}"
    for got_row, row in zip(got, expected):
        for name, value, right in zip(NAMES, got_row, row):
            same = value == right and type(value) is type(right)
            assert same, f"{what}: row {row[0]}, column {name}: {value!r} instead of {right!r}"


def check_error(code, run, error_type):
    """Checks that `run` fails with MySQL's error number `code`."""
    try:
        run()
    except error_type as error:
        number = getattr(error, "errno", None) or error.args[0]
        assert number == code, f"error {number} instead of {code}: {error}"
        return
    raise AssertionError(f"no error where {code} was due")


#: Statements that must fail, with their numbers; `{t}` is the table.
MISTAKES = [
    (1062, "INSERT INTO {t} (id) VALUES (1)"),
    (1146, "SELECT * FROM no_such_table"),
    (1064, "SELEC 1"),
    (1054, "SELECT no_such_column FROM {t}"),
]
