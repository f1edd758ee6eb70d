-- Every type, its extremes, NULL, and values it cannot hold.
CREATE TABLE ints (id INT PRIMARY KEY, t TINYINT, tu TINYINT UNSIGNED, s SMALLINT, su SMALLINT UNSIGNED, m MEDIUMINT, mu MEDIUMINT UNSIGNED, i INT, iu INT UNSIGNED, b BIGINT, bu BIGINT UNSIGNED, ok BOOL);
INSERT INTO ints VALUES (1, -128, 0, -32768, 0, -8388608, 0, -2147483648, 0, -9223372036854775808, 0, FALSE);
INSERT INTO ints VALUES (2, 127, 255, 32767, 65535, 8388607, 16777215, 2147483647, 4294967295, 9223372036854775807, 18446744073709551615, TRUE);
INSERT INTO ints (id) VALUES (3);
SELECT * FROM ints ORDER BY id;
SELECT min(b), max(b), min(bu), max(bu), count(ok), sum(t) FROM ints;
SELECT id FROM ints WHERE bu = 18446744073709551615;
SELECT id FROM ints WHERE b < 0 OR bu IS NULL ORDER BY id DESC;
INSERT INTO ints (id, t) VALUES (4, 128);
INSERT INTO ints (id, tu) VALUES (4, -1);
INSERT INTO ints (id, bu) VALUES (4, 18446744073709551616);
INSERT INTO ints (id, i) VALUES (4, 'abc');
INSERT INTO ints (id, i) VALUES (4, '12');
SELECT i FROM ints WHERE id = 4;

CREATE TABLE reals (id INT PRIMARY KEY, f FLOAT, d DOUBLE, n DECIMAL(10, 3), w DECIMAL(38, 10), z DECIMAL(5, 0));
INSERT INTO reals VALUES (1, 1.5, -2.25, 1234567.891, 1234567890123456789012345678.0123456789, 99999);
INSERT INTO reals VALUES (2, -0.1, 1e300, -0.0005, -0.0000000001, -99999), (3, NULL, NULL, NULL, NULL, NULL), (4, 0, 0, 0, 0, 0);
SELECT * FROM reals ORDER BY id;
SELECT sum(n), sum(d), count(n), avg(n), min(w), max(w) FROM reals WHERE id <> 2;
SELECT n * 2, n + 1, n - 0.001 FROM reals WHERE id = 1;
INSERT INTO reals (id, n) VALUES (5, 12345678);
INSERT INTO reals (id, z) VALUES (5, 100000);
INSERT INTO reals (id, n) VALUES (5, 'x');

CREATE TABLE strings (id INT PRIMARY KEY, c CHAR(4), v VARCHAR(5), t TEXT, b BINARY(3), vb VARBINARY(4), bl BLOB);
INSERT INTO strings VALUES (1, 'ab', 'hello', 'long text', 'abc', 'wxyz', 'blob'), (2, '', '', '', '', '', ''), (3, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO strings (id, v, t) VALUES (4, 'äöüß€', 'z̈ 漢字 😀');
SELECT id, c, v, t, hex(b), hex(vb), bl FROM strings ORDER BY id;
SELECT id, length(v), char_length(v), upper(v) FROM strings ORDER BY id;
SELECT id FROM strings WHERE v = 'HELLO';
SELECT id FROM strings WHERE c = 'ab  ' OR v LIKE 'h_l%';
INSERT INTO strings (id, v) VALUES (5, 'sixsix');
INSERT INTO strings (id, b) VALUES (5, 'four');
SELECT concat(c, '-', v), coalesce(t, 'none') FROM strings ORDER BY id;

CREATE TABLE times (id INT PRIMARY KEY, d DATE, dt DATETIME, dt6 DATETIME(6), ts TIMESTAMP NULL);
INSERT INTO times VALUES (1, '1000-01-01', '1000-01-01 00:00:00', '1000-01-01 00:00:00.000001', '1970-01-02 00:00:01');
INSERT INTO times VALUES (2, '9999-12-31', '9999-12-31 23:59:59', '9999-12-31 23:59:59.999999', '2037-12-31 23:59:59');
INSERT INTO times VALUES (3, NULL, NULL, NULL, NULL), (4, '2024-02-29', '2024-02-29 12:30:45', '2024-02-29 12:30:45.5', '2024-02-29 12:30:45');
SELECT * FROM times ORDER BY id;
SELECT id FROM times WHERE d > '2000-01-01' ORDER BY d DESC;
SELECT year(d), month(d), dayofmonth(d) FROM times WHERE id = 4;
SELECT d + INTERVAL 1 DAY, dt - INTERVAL 1 HOUR FROM times WHERE id = 4;
SELECT min(d), max(dt), count(ts) FROM times;
INSERT INTO times (id, d) VALUES (5, '2023-02-29');
INSERT INTO times (id, dt) VALUES (5, 'yesterday');
-- A choice among moments keeps the finest fraction.
CREATE TABLE moments (id INT PRIMARY KEY, y DATE, z DATETIME(3), p DATETIME(6));
INSERT INTO moments VALUES (1, '2024-01-02', '2024-01-02 03:04:05.678', '2024-01-02 03:04:05.678901');
SELECT CASE WHEN id = 1 THEN z ELSE y END, IF(id = 1, y, z), coalesce(z, y), ifnull(y, p) FROM moments;
SELECT y FROM moments UNION ALL SELECT z FROM moments ORDER BY 1;
SELECT NULL AS x UNION ALL SELECT z FROM moments ORDER BY 1;
SELECT z FROM moments UNION ALL SELECT CAST('2020-01-01' AS DATE) ORDER BY 1;
SELECT greatest(y, z), least(z, p) FROM moments;
