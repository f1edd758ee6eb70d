#!/bin/sh
# The mariadb command-line client against a running server: -e, batch, LOAD DATA LOCAL.
# Needs `mariadb` (or `mysql`) on the PATH.
set -eu

host="${DAMASK_HOST:-127.0.0.1}"
port="${DAMASK_PORT:-4000}"
database=damask_check_mariadb
client=$(command -v mariadb || command -v mysql) || {
    echo "check_mariadb: neither mariadb nor mysql is installed" >&2
    exit 1
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

sql() {
    "$client" --no-defaults --default-character-set=utf8mb4 --protocol=tcp \
        -h "$host" -P "$port" -u root "$@"
}

# check WHAT EXPECTED GOT
check() {
    if [ "$2" != "$3" ]; then
        printf 'check_mariadb: %s\n--- expected\n%s\n--- got\n%s\n' "$1" "$2" "$3" >&2
        exit 1
    fi
}

# fails NUMBER SQL: the statement fails with this error number
fails() {
    if sql "$database" -e "$2" >"$folder/out" 2>"$folder/err"; then
        check "no error for: $2" "ERROR $1" "success"
    fi
    check "error of: $2" "ERROR $1" "$(sed -n 's/^\(ERROR [0-9]*\).*/\1/p' "$folder/err")"
}

tab=$(printf '\t')
sql -e "DROP DATABASE IF EXISTS $database; CREATE DATABASE $database"

sql "$database" <<'SQL'
SET time_zone = '+00:00';
CREATE TABLE a (
  id BIGINT NOT NULL PRIMARY KEY, i8 TINYINT, u8 TINYINT UNSIGNED, i16 SMALLINT,
  u16 SMALLINT UNSIGNED, i24 MEDIUMINT, u24 MEDIUMINT UNSIGNED, i32 INT, u32 INT UNSIGNED,
  i64 BIGINT, u64 BIGINT UNSIGNED, f32 FLOAT, f64 DOUBLE, n DECIMAL(20,6), yes BOOL,
  c CHAR(10), vc VARCHAR(100), t TEXT, bin BINARY(4), vb VARBINARY(300), bl BLOB,
  d DATE, dt DATETIME, dt6 DATETIME(6), ts TIMESTAMP NULL DEFAULT NULL, tm TIME
);
-- A comment; with a semicolon.
INSERT INTO a VALUES (1, -128, 255, -32768, 65535, -8388608, 16777215, -2147483648, 4294967295,
  -9223372036854775808, 18446744073709551615, 1.5, 0.1, -99999999999999.999999, TRUE,
  'char', 'it''s; "é" 🐬', 'text', X'61626364', X'65', 'blob',
  '2024-02-29', '2024-02-29 12:34:56', '2024-02-29 12:34:56.12', '2024-02-29 12:34:56',
  '-01:02:03');
INSERT INTO a (id) VALUES (2);
SQL

got=$(sql "$database" -N -B -e "SELECT * FROM a ORDER BY id")
row1="1 -128 255 -32768 65535 -8388608 16777215 -2147483648 4294967295 -9223372036854775808"
row1="$row1 18446744073709551615 1.5 0.1 -99999999999999.999999 1 char"
row1=$(printf '%s' "$row1" | tr ' ' '\t')
row1="$row1${tab}it's; \"é\" 🐬${tab}text${tab}abcd${tab}e${tab}blob${tab}2024-02-29"
row1="$row1${tab}2024-02-29 12:34:56${tab}2024-02-29 12:34:56.120000${tab}2024-02-29 12:34:56"
row1="$row1${tab}-01:02:03"
row2="2$(for _ in $(seq 25); do printf '\tNULL'; done)"
check "rows read back" "$(printf '%s\n%s' "$row1" "$row2")" "$got"

check "headers" "one${tab}two" "$(sql -B -e "SELECT 1 AS one, 'x' AS two" | head -n 1)"
check "a framed table" "+---+" "$(sql -t -e 'SELECT 1 AS a' | head -n 1)"
check "several statements" "$(printf '1\n2')" "$(sql -N -B -e 'SELECT 1; SELECT 2')"
check "a prepared statement" "7" \
    "$(sql -N -B "$database" -e "PREPARE s FROM 'SELECT ? + 3'; SET @x = 4; EXECUTE s USING @x")"

got=$(sql "$database" -N -B -e \
    "BEGIN; DELETE FROM a; SELECT COUNT(*) FROM a; ROLLBACK; SELECT COUNT(*) FROM a")
check "rollback" "$(printf '0\n2')" "$got"

fails 1062 "INSERT INTO a (id) VALUES (1)"
fails 1146 "SELECT * FROM no_such_table"
fails 1064 "SELEC 1"
fails 1054 "SELECT no_such_column FROM a"

i=0
while [ $i -lt 500 ]; do
    printf '%d\trow %d\t%d.25\n' $i $i $i
    i=$((i + 1))
done >"$folder/rows.tsv"
printf '500\t\\N\t\\N\n' >>"$folder/rows.tsv"
printf '"id","name"\r\n"1","a ""quoted"" name, with a comma"\r\n"2",""\r\n' >"$folder/rows.csv"
sql "$database" --local-infile=1 <<SQL
CREATE TABLE f (id INT PRIMARY KEY, name VARCHAR(50), n DECIMAL(10,2));
LOAD DATA LOCAL INFILE '$folder/rows.tsv' INTO TABLE f;
CREATE TABLE g (id INT PRIMARY KEY, name VARCHAR(50));
LOAD DATA LOCAL INFILE '$folder/rows.csv' INTO TABLE g
  FIELDS TERMINATED BY ',' ENCLOSED BY '"' LINES TERMINATED BY '\r\n' IGNORE 1 LINES (id, name);
SQL
check "loaded rows" "501${tab}500${tab}124875.00" \
    "$(sql "$database" -N -B -e 'SELECT COUNT(*), COUNT(name), SUM(n) FROM f')"
check "loaded quotes" "$(printf '1\ta "quoted" name, with a comma\n2\t')" \
    "$(sql "$database" -N -B -e 'SELECT * FROM g ORDER BY id')"

sql -e "DROP DATABASE $database"
echo "ok mariadb"
