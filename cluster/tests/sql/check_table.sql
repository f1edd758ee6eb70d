-- CHECK TABLE reads rows, index entries and columns of every type at one timestamp.
CREATE TABLE every (id BIGINT UNSIGNED PRIMARY KEY, i TINYINT, u INT UNSIGNED, f FLOAT, d DOUBLE, m DECIMAL(20,4), c CHAR(5), v VARCHAR(20), t TEXT, b VARBINARY(10), l BLOB, y DATE, z DATETIME(3), s TIMESTAMP(6) NULL, q TIME(2), o BOOL, UNIQUE KEY (v), KEY (m, y), KEY (s), KEY (f));
INSERT INTO every VALUES (1, -1, 1, 1.5, 2.25, -3.1234, 'c', 'v', 't', 'b', 'l', '2024-01-02', '2024-01-02 03:04:05.678', '2024-01-02 03:04:05.678901', '-12:34:56.78', TRUE);
INSERT INTO every (id) VALUES (2), (18446744073709551615);
INSERT INTO every VALUES (3, 127, 4294967295, -0.1, 1e300, 9999999999999999.9999, '', 'ü', repeat('x', 1000), x'00ff', x'00', '1000-01-01', '9999-12-31 23:59:59.999', '1971-01-01 00:00:00', '838:59:59.00', FALSE);
CREATE TABLE plain (a INT, b VARCHAR(5), KEY (b));
INSERT INTO plain VALUES (1, 'x'), (1, 'x'), (2, NULL);
CHECK TABLE every, plain;
UPDATE every SET v = concat('new ', id), f = id / 7, s = s + INTERVAL 1 DAY WHERE id < 10;
DELETE FROM plain WHERE a = 2;
CHECK TABLE every;
ADMIN CHECK TABLE every, plain;
CHECK TABLE nowhere;
ADMIN CHECK TABLE nowhere;
ADMIN SHOW DDL JOBS;
ANALYZE TABLE plain;
