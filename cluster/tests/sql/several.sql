-- Changes of several tables in one statement, and how changes are explained.
CREATE TABLE a (id INT PRIMARY KEY, n INT, s VARCHAR(10) UNIQUE);
CREATE TABLE b (id INT PRIMARY KEY, a_id INT, n INT, KEY (a_id));
INSERT INTO a VALUES (1, 10, 'one'), (2, 20, 'two'), (3, 30, 'three');
INSERT INTO b VALUES (10, 1, 1), (11, 1, 2), (20, 2, 3), (90, 9, 4);
-- Row 1 of a meets two rows of b: it changes once, and every value is made of the rows as they were.
UPDATE a JOIN b ON b.a_id = a.id SET a.n = a.n + 1, b.n = a.n * 10;
SELECT * FROM a ORDER BY id;
SELECT * FROM b ORDER BY id;
UPDATE a, b SET a.s = concat(a.s, '!'), b.n = b.n + 1 WHERE a.id = b.a_id AND b.id = 20;
UPDATE a LEFT JOIN b ON b.a_id = a.id SET a.n = 0, b.n = 0 WHERE a.id = 3;
-- One table by two names.
UPDATE a x JOIN a y ON y.id = x.id + 1 SET x.n = y.n, y.s = concat('y', y.id);
SELECT * FROM a ORDER BY id;
-- Unqualified columns belong to the table that has them.
UPDATE a JOIN b ON b.a_id = a.id SET s = 'only a', b.n = 5 WHERE b.id = 20;
UPDATE a JOIN b ON b.a_id = a.id SET n = 1;
UPDATE a JOIN b ON b.a_id = a.id SET a.n = 1, b.n = 2 ORDER BY a.id;
UPDATE a JOIN b ON b.a_id = a.id SET a.n = 1, b.n = 2 LIMIT 1;
-- A key that collides takes back the whole statement, of both tables.
BEGIN;
UPDATE b JOIN a ON b.a_id = a.id SET b.n = 77, a.s = 'same';
SELECT count(*) FROM b WHERE n = 77;
COMMIT;
SELECT id, n FROM b ORDER BY id;
DELETE a, b FROM a JOIN b ON b.a_id = a.id WHERE a.id = 1;
SELECT id FROM a ORDER BY id;
SELECT id FROM b ORDER BY id;
DELETE FROM x, y USING a x LEFT JOIN b y ON y.a_id = x.id WHERE x.id = 2 OR x.id = 3;
SELECT count(*) FROM a;
SELECT id FROM b ORDER BY id;
DELETE a, b FROM a JOIN b LIMIT 1;
DELETE z FROM a JOIN b;
DELETE a, a FROM a JOIN b;
DELETE FROM a JOIN b;
-- What is written, and the way to the rows.
INSERT INTO a VALUES (1, 1, 'x'), (2, 2, 'y');
EXPLAIN UPDATE a SET n = 5 WHERE id IN (1, 2);
EXPLAIN DELETE FROM a WHERE s = 'x';
EXPLAIN UPDATE a SET n = n + 1 WHERE id BETWEEN 1 AND 100;
EXPLAIN DELETE FROM a;
EXPLAIN INSERT INTO b (id, n) VALUES (1, 1), (2, 2);
EXPLAIN REPLACE INTO a VALUES (1, 1, 'z');
EXPLAIN ANALYZE DELETE FROM a;
EXPLAIN UPDATE a SET zz = 1;
SELECT * FROM a ORDER BY id;
