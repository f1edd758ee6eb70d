-- SKIP LOCKED of joins, groups, subqueries and in optimistic transactions; NOWAIT of the same.
CREATE TABLE job (id INT PRIMARY KEY, team INT, prio INT, KEY (team));
CREATE TABLE team (id INT PRIMARY KEY, name VARCHAR(10));
CREATE TABLE note (job INT, body VARCHAR(10));
INSERT INTO job VALUES (1, 1, 50), (2, 1, 40), (3, 2, 30), (4, 2, 20), (5, 3, 10), (6, NULL, 0);
INSERT INTO team VALUES (1, 'red'), (2, 'green'), (3, 'blue');
INSERT INTO note VALUES (1, 'a'), (2, 'b'), (2, 'c'), (4, 'd');
-- Somebody has job 1, the team 2 and the note 'b'.
BEGIN PESSIMISTIC;
SELECT id FROM job WHERE id = 1 FOR UPDATE;
SELECT name FROM team WHERE id = 2 FOR UPDATE;
SELECT body FROM note WHERE body = 'b' FOR UPDATE;
--@client other
-- Of a join: a row is left out if any of its tables' rows is another's.
BEGIN;
SELECT j.id, t.name FROM job j JOIN team t ON t.id = j.team ORDER BY j.id FOR UPDATE SKIP LOCKED;
ROLLBACK;
-- Rows that are skipped do not count for LIMIT; an alias and a number name what they stand for.
BEGIN;
SELECT j.id AS n, j.prio FROM job j JOIN team t ON t.id = j.team ORDER BY n LIMIT 1 FOR UPDATE SKIP LOCKED;
SELECT j.id, j.prio AS p FROM job j JOIN team t ON t.id = j.team ORDER BY 2 LIMIT 1 FOR UPDATE SKIP LOCKED;
SELECT id FROM job ORDER BY id LIMIT 2 OFFSET 1 FOR UPDATE SKIP LOCKED;
--@client third
-- Jobs 2 and 5 are the other's now, with their teams, and so are 3 and 4 (2 to 4 were looked at).
BEGIN;
SELECT id FROM job ORDER BY id FOR UPDATE SKIP LOCKED;
SELECT id FROM team ORDER BY id FOR UPDATE SKIP LOCKED;
ROLLBACK;
--@client other
ROLLBACK;
-- Only the tables of OF are locked, and so left out.
BEGIN;
SELECT j.id, t.name FROM job j JOIN team t ON t.id = j.team ORDER BY j.id FOR UPDATE OF j SKIP LOCKED;
SELECT j.id, t.name FROM job j JOIN team t ON t.id = j.team ORDER BY j.id FOR UPDATE OF t SKIP LOCKED;
ROLLBACK;
-- An outer join does not see a row that another has.
BEGIN;
SELECT j.id, t.name FROM job j LEFT JOIN team t ON t.id = j.team ORDER BY j.id FOR UPDATE SKIP LOCKED;
SELECT j.id, t.name FROM team t RIGHT JOIN job j ON t.id = j.team ORDER BY j.id FOR UPDATE SKIP LOCKED;
ROLLBACK;
-- A table without primary key: its hidden column stays hidden.
BEGIN;
SELECT * FROM job j JOIN note n ON n.job = j.id ORDER BY j.id, n.body FOR UPDATE SKIP LOCKED;
SELECT n.*, j.id FROM job j, note n WHERE n.job = j.id ORDER BY n.body FOR UPDATE SKIP LOCKED;
ROLLBACK;
-- Parentheses and USING.
BEGIN;
SELECT a.id, b.prio FROM (job a JOIN job b USING (id)) JOIN team t ON t.id = a.team ORDER BY a.id FOR UPDATE SKIP LOCKED;
SELECT a.id FROM job a LEFT JOIN job b USING (id) ORDER BY a.id FOR UPDATE SKIP LOCKED;
ROLLBACK;
-- Groups and distinct rows are of the rows that are locked.
BEGIN;
SELECT team, count(*) FROM job GROUP BY team ORDER BY team FOR UPDATE SKIP LOCKED;
SELECT DISTINCT team FROM job ORDER BY team FOR UPDATE SKIP LOCKED;
SELECT count(*), max(prio) FROM job FOR UPDATE SKIP LOCKED;
SELECT t.name, count(*) FROM job j JOIN team t ON t.id = j.team GROUP BY t.name ORDER BY t.name FOR UPDATE SKIP LOCKED;
ROLLBACK;
-- A clause is about its own FROM: a subquery there has its own.
BEGIN;
SELECT d.id FROM (SELECT id FROM job) d ORDER BY d.id FOR UPDATE SKIP LOCKED;
SELECT d.id FROM (SELECT id FROM job ORDER BY id LIMIT 2 FOR UPDATE SKIP LOCKED) d ORDER BY d.id;
SELECT d.id FROM (SELECT id FROM job WHERE id = 1 FOR UPDATE NOWAIT) d;
SELECT t.id, d.id FROM team t JOIN (SELECT id, team FROM job FOR UPDATE SKIP LOCKED) d ON d.team = t.id ORDER BY d.id FOR UPDATE SKIP LOCKED;
--@client third
SELECT id FROM job ORDER BY id FOR UPDATE SKIP LOCKED;
--@client other
ROLLBACK;
-- NOWAIT of a join.
SELECT j.id FROM job j JOIN team t ON t.id = j.team WHERE j.id = 3 FOR UPDATE NOWAIT;
SELECT j.id FROM job j JOIN team t ON t.id = j.team WHERE j.id = 5 FOR UPDATE NOWAIT;
SELECT team, count(*) FROM job GROUP BY team FOR UPDATE NOWAIT;
-- An optimistic transaction locks when it commits.
BEGIN OPTIMISTIC;
SELECT id FROM job WHERE id < 3 ORDER BY id FOR UPDATE SKIP LOCKED;
SHOW WARNINGS;
SELECT id FROM job WHERE id < 3 ORDER BY id FOR UPDATE NOWAIT;
SHOW WARNINGS;
COMMIT;
BEGIN OPTIMISTIC;
SELECT id FROM job WHERE id = 1 FOR UPDATE SKIP LOCKED;
--@client main
UPDATE job SET prio = 99 WHERE id = 1;
COMMIT;
--@client other
UPDATE job SET prio = 98 WHERE id = 2;
COMMIT;
SELECT id, prio FROM job ORDER BY id;
-- One table left out does not hide the next.
--@client main
BEGIN PESSIMISTIC;
SELECT id FROM team WHERE id = 2 FOR UPDATE;
--@client other
BEGIN;
SELECT j.id, t.name, n.body FROM job j LEFT JOIN team t ON t.id = j.team LEFT JOIN note n ON n.job = j.id WHERE j.id > 2 ORDER BY j.id FOR UPDATE SKIP LOCKED;
ROLLBACK;
--@client main
ROLLBACK;
-- A row that another has is not there for the ON of an outer join: the join goes on with the
-- table's other rows, and these may fail WHERE. Jobs 1 and 2 match 'red' alone, which another has.
--@client main
BEGIN PESSIMISTIC;
SELECT id FROM team WHERE id = 1 FOR UPDATE;
SELECT body FROM note WHERE body = 'b' FOR UPDATE;
--@client other
BEGIN;
SELECT j.id, t.name FROM job j LEFT JOIN team t ON t.id <= j.team WHERE t.name = 'red' OR t.name IS NULL ORDER BY j.id FOR UPDATE SKIP LOCKED;
SELECT j.id, t.name FROM team t RIGHT JOIN job j ON t.id <= j.team WHERE name = 'red' OR name IS NULL ORDER BY j.id LIMIT 3 FOR UPDATE OF t SKIP LOCKED;
SELECT j.id, t.name FROM job j LEFT JOIN team t ON t.id <= j.team ORDER BY j.id, t.id FOR UPDATE SKIP LOCKED;
SELECT count(*), count(t.id) FROM job j LEFT JOIN team t ON t.id <= j.team FOR UPDATE SKIP LOCKED;
SELECT j.id, n.body FROM job j LEFT JOIN note n ON n.job = j.id WHERE j.id < 4 AND (n.body = 'b' OR n.body IS NULL) ORDER BY j.id FOR UPDATE SKIP LOCKED;
ROLLBACK;
-- NULLs for the row may match other rows of the next table: these are locked too.
BEGIN;
SELECT j.id, t.id, x.id FROM job j LEFT JOIN team t ON t.id = j.team LEFT JOIN job x ON x.id = COALESCE(t.id, 6) WHERE j.id < 3 ORDER BY j.id FOR UPDATE SKIP LOCKED;
--@client third
SELECT id FROM job ORDER BY id FOR UPDATE SKIP LOCKED;
--@client other
ROLLBACK;
SELECT j.id, t.id, x.id FROM job j LEFT JOIN (team t JOIN job x ON x.id = t.id) ON t.id <= j.team WHERE j.id IN (1, 3) FOR UPDATE SKIP LOCKED;
-- A subquery of what is no table has nothing to lock; what it is joined with has.
BEGIN;
WITH c AS (SELECT 3 AS id) SELECT * FROM (SELECT * FROM c FOR UPDATE) d;
WITH c AS (SELECT 1 AS id) SELECT * FROM (SELECT * FROM c FOR UPDATE SKIP LOCKED) d;
SELECT d.n FROM (SELECT table_name AS n FROM information_schema.tables WHERE table_name = 'note' FOR UPDATE) d;
SELECT schema_name FROM information_schema.schemata WHERE schema_name = 'mysql' FOR UPDATE;
SELECT * FROM (SELECT 1 AS one FROM dual FOR UPDATE) d;
SELECT d.id FROM (SELECT id FROM nowhere FOR UPDATE) d;
WITH c AS (SELECT 3 AS id) SELECT * FROM (SELECT j.id, j.prio FROM job j JOIN c ON c.id = j.id FOR UPDATE) d;
WITH c AS (SELECT 1 AS id UNION SELECT 2) SELECT d.name FROM (SELECT t.name FROM team t WHERE t.id IN (SELECT id FROM c) FOR UPDATE SKIP LOCKED) d;
WITH c AS (SELECT 'b' AS b UNION SELECT 'c') SELECT d.body FROM (SELECT * FROM note n JOIN c ON c.b = n.body FOR UPDATE SKIP LOCKED) d;
WITH c AS (SELECT 'b' AS b UNION SELECT 'c') SELECT d.body FROM (SELECT n.body FROM note n JOIN c ON c.b = n.body FOR UPDATE SKIP LOCKED) d;
WITH c AS (SELECT 4 AS id) SELECT e.id FROM (WITH b AS (SELECT id FROM c) SELECT d.id FROM (SELECT j.id FROM job j JOIN b ON b.id = j.id FOR UPDATE) d) e;
WITH c AS (SELECT 4 AS id) SELECT e.id FROM (WITH c AS (SELECT 5 AS id) SELECT d.id FROM (SELECT j.id FROM job j JOIN c ON c.id = j.id FOR UPDATE) d) e;
--@client third
SELECT id FROM job ORDER BY id FOR UPDATE SKIP LOCKED;
SELECT id FROM team ORDER BY id FOR UPDATE SKIP LOCKED;
--@client other
ROLLBACK;
-- Subqueries within parentheses of FROM are locked as well.
BEGIN;
SELECT d.id, t.name FROM ((SELECT id, team FROM job WHERE id = 5 FOR UPDATE) d JOIN team t ON t.id = d.team);
SELECT d.id, j.id FROM (job j JOIN (SELECT id FROM team FOR UPDATE SKIP LOCKED) d ON j.team = d.id) ORDER BY j.id;
--@client third
SELECT id FROM job ORDER BY id FOR UPDATE SKIP LOCKED;
--@client other
ROLLBACK;
SELECT d.name FROM ((SELECT name FROM team WHERE id = 1 FOR UPDATE NOWAIT) d JOIN note n);
SELECT d.id FROM job j, LATERAL (SELECT id FROM team t WHERE t.id = j.team FOR UPDATE) d;
SELECT d.prio FROM (job j JOIN LATERAL (SELECT prio FROM job FOR UPDATE NOWAIT) d ON d.prio = j.prio);
SELECT d.id FROM ((SELECT id FROM job WHERE id = 5 FOR UPDATE)) d;
--@client main
ROLLBACK;
