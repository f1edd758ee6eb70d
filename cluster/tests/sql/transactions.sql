-- Own writes are visible, others' are not before their commit; the first to commit wins.
CREATE TABLE t (id INT PRIMARY KEY, v INT, KEY (v));
INSERT INTO t VALUES (1, 10), (2, 20), (3, 30), (60, 60);
BEGIN;
INSERT INTO t VALUES (4, 40);
UPDATE t SET v = v + 1 WHERE id <= 2;
DELETE FROM t WHERE id = 3;
SELECT * FROM t ORDER BY id;
SELECT v FROM t WHERE id = 4;
SELECT count(*), sum(v) FROM t WHERE v > 15;
SELECT id FROM t WHERE v = 21;
SELECT a.id, b.id FROM t a JOIN t b ON a.v < b.v AND a.id = 4 ORDER BY b.id;
--@client other
SELECT * FROM t ORDER BY id;
--@client main
ROLLBACK;
SELECT * FROM t ORDER BY id;
BEGIN;
UPDATE t SET v = 11 WHERE id = 1;
SAVEPOINT a;
UPDATE t SET v = 12 WHERE id = 1;
INSERT INTO t VALUES (5, 50);
SAVEPOINT b;
DELETE FROM t;
SELECT count(*) FROM t;
ROLLBACK TO b;
SELECT * FROM t ORDER BY id;
ROLLBACK TO a;
SELECT * FROM t ORDER BY id;
ROLLBACK TO b;
RELEASE SAVEPOINT a;
COMMIT;
--@client other
SELECT * FROM t ORDER BY id;
BEGIN OPTIMISTIC;
SELECT v FROM t WHERE id = 2;
--@client main
UPDATE t SET v = 200 WHERE id = 2;
--@client other
SELECT v FROM t WHERE id = 2;
SELECT sum(v) FROM t;
UPDATE t SET v = 2000 WHERE id = 2;
COMMIT;
SELECT v FROM t WHERE id = 2;
--@client main
SET autocommit = 0;
INSERT INTO t VALUES (6, 60);
--@client other
SELECT count(*) FROM t;
--@client main
COMMIT;
SET autocommit = 1;
BEGIN;
INSERT INTO t VALUES (7, 70);
INSERT INTO t VALUES (1, 1);
INSERT INTO t VALUES (8, 80);
COMMIT;
SELECT id FROM t ORDER BY id;
BEGIN;
INSERT INTO t VALUES (9, 90);
CREATE TABLE ends_it (a INT);
ROLLBACK;
SELECT v FROM t WHERE id = 9;
START TRANSACTION READ ONLY;
DELETE FROM t;
COMMIT;
SELECT count(*) FROM t;
