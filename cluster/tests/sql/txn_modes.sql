-- How transactions begin, what they may do, and what they read, in both modes and both levels.
CREATE TABLE t (id INT PRIMARY KEY, v INT, UNIQUE KEY (v));
INSERT INTO t VALUES (1, 10), (2, 20), (3, 30), (60, 60);
SELECT @@tidb_txn_mode, @@damask_txn_mode, @@transaction_isolation, @@innodb_lock_wait_timeout;
-- Pessimistic: a change reads the newest rows, a query the snapshot.
BEGIN;
SELECT sum(v) FROM t;
--@client other
UPDATE t SET v = v + 1 WHERE id IN (1, 2);
INSERT INTO t VALUES (4, 40);
--@client main
SELECT * FROM t ORDER BY id;
UPDATE t SET v = v + 100 WHERE id IN (1, 4);
SELECT * FROM t ORDER BY id;
SELECT * FROM t WHERE id = 2 FOR UPDATE;
SELECT v FROM t WHERE v > 20 ORDER BY v FOR UPDATE;
SELECT sum(v) FROM t;
DELETE FROM t WHERE v = 21;
INSERT INTO t VALUES (4, 44);
INSERT INTO t VALUES (5, 30);
INSERT INTO t SELECT id + 10, v + 1000 FROM t WHERE id < 4;
COMMIT;
SELECT * FROM t ORDER BY id;
-- Optimistic: everything at the start, and a conflict at the end.
BEGIN OPTIMISTIC;
SELECT v FROM t WHERE id = 1;
--@client other
UPDATE t SET v = 12 WHERE id = 1;
--@client main
SELECT v FROM t WHERE id = 1 FOR UPDATE;
UPDATE t SET v = v + 1 WHERE id = 3;
COMMIT;
SELECT * FROM t ORDER BY id;
-- Read committed reads anew in each statement, pessimistic ones only.
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
BEGIN PESSIMISTIC;
SELECT v FROM t WHERE id = 1;
--@client other
UPDATE t SET v = 13 WHERE id = 1;
--@client main
SELECT v FROM t WHERE id = 1;
SELECT sum(v) FROM t;
SET @v = (SELECT v FROM t WHERE id = 1);
SELECT @v;
COMMIT;
BEGIN OPTIMISTIC;
SELECT v FROM t WHERE id = 1;
--@client other
UPDATE t SET v = 14 WHERE id = 1;
--@client main
SELECT v FROM t WHERE id = 1;
COMMIT;
SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ;
-- SET TRANSACTION without a scope is for the next one only.
SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY;
SELECT @@transaction_isolation, @@transaction_read_only;
BEGIN;
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
SELECT v FROM t WHERE id = 1;
--@client other
UPDATE t SET v = 15 WHERE id = 1;
--@client main
SELECT v FROM t WHERE id = 1;
DELETE FROM t;
COMMIT;
BEGIN;
SELECT v FROM t WHERE id = 1;
--@client other
UPDATE t SET v = 16 WHERE id = 1;
--@client main
SELECT v FROM t WHERE id = 1;
COMMIT;
SET TRANSACTION READ ONLY;
DELETE FROM t WHERE id = 1;
DELETE FROM t WHERE id = 11;
SET SESSION TRANSACTION READ ONLY;
UPDATE t SET v = 1;
SELECT v FROM t WHERE id = 1 FOR UPDATE;
SELECT v FROM t WHERE id = 1 FOR SHARE;
START TRANSACTION READ WRITE;
UPDATE t SET v = 17 WHERE id = 1;
COMMIT;
START TRANSACTION;
UPDATE t SET v = 18 WHERE id = 1;
CREATE TABLE no (a INT);
COMMIT;
SET SESSION TRANSACTION READ WRITE;
START TRANSACTION READ ONLY, WITH CONSISTENT SNAPSHOT;
UPDATE t SET v = 19 WHERE id = 1;
SELECT v FROM t WHERE id = 1;
COMMIT;
START TRANSACTION READ ONLY, READ WRITE;
-- Levels that there are not.
SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE;
SET transaction_isolation = 'read-uncommitted';
SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;
SET tidb_skip_isolation_level_check = 1;
SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE;
SHOW WARNINGS;
SELECT @@tx_isolation;
SET tx_isolation = 'REPEATABLE-READ';
SET tidb_skip_isolation_level_check = 0;
-- The default mode.
SET damask_txn_mode = 'optimistic';
SELECT @@tidb_txn_mode;
BEGIN;
SELECT v FROM t WHERE id = 1;
--@client other
UPDATE t SET v = 20 WHERE id = 1;
--@client main
UPDATE t SET v = v + 1 WHERE id = 1;
COMMIT;
SELECT v FROM t WHERE id = 1;
SET autocommit = 0;
SELECT v FROM t WHERE id = 1;
--@client other
UPDATE t SET v = 21 WHERE id = 1;
--@client main
UPDATE t SET v = v + 1 WHERE id = 1;
SET autocommit = 1;
SELECT v FROM t WHERE id = 1;
SET tidb_txn_mode = 'sometimes';
SET tidb_txn_mode = DEFAULT;
SELECT @@tidb_txn_mode;
