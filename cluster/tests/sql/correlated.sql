-- Subqueries that name columns of the query around, whether or not they can be made joins.
CREATE TABLE a (id INT PRIMARY KEY, k INT, g VARCHAR(5));
CREATE TABLE b (id INT PRIMARY KEY, k INT, v INT, KEY (k));
INSERT INTO a VALUES (1, 10, 'x'), (2, 20, 'x'), (3, 30, 'y'), (4, NULL, 'y');
INSERT INTO b VALUES (1, 5, 50), (2, 15, 40), (3, 15, 30), (4, 25, 20), (5, NULL, 10);
SELECT id, (SELECT max(v) FROM b WHERE b.k = a.k + 5) FROM a ORDER BY id;
SELECT id, (SELECT v FROM b WHERE b.k < a.k ORDER BY v LIMIT 1) FROM a ORDER BY id;
SELECT id, (SELECT v FROM b WHERE b.k < a.k ORDER BY v LIMIT 1, 1) FROM a ORDER BY id;
SELECT id, (SELECT v FROM b WHERE b.k < a.k ORDER BY v DESC, id LIMIT 1 OFFSET 2) FROM a ORDER BY id;
SELECT id, (SELECT count(*) FROM b WHERE b.k < a.k) FROM a ORDER BY id;
SELECT id, (SELECT sum(v) FROM b WHERE b.k BETWEEN a.k - 10 AND a.k) FROM a ORDER BY id;
SELECT id FROM a WHERE 2 < (SELECT count(*) FROM b WHERE b.k < a.k) ORDER BY id;
SELECT id FROM a WHERE k > (SELECT avg(k) FROM b WHERE b.v > a.k) ORDER BY id;
SELECT id FROM a WHERE 15 IN (SELECT k FROM b WHERE b.k < a.k ORDER BY v LIMIT 2) ORDER BY id;
SELECT id FROM a WHERE 5 IN (SELECT k FROM b WHERE b.k < a.k ORDER BY v LIMIT 2) ORDER BY id;
SELECT id FROM a WHERE 5 NOT IN (SELECT k FROM b WHERE b.k < a.k ORDER BY v LIMIT 2) ORDER BY id;
SELECT id, 5 IN (SELECT k FROM b WHERE b.k < a.k ORDER BY v LIMIT 2) FROM a ORDER BY id;
SELECT id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k < a.k LIMIT 1 OFFSET 3) ORDER BY id;
SELECT id FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k - 5 LIMIT 1 OFFSET 1) ORDER BY id;
SELECT id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k - 5 LIMIT 1) ORDER BY id;
SELECT id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k - 5 LIMIT 0) ORDER BY id;
SELECT id FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k < a.k AND b.v > a.k) ORDER BY id;
SELECT id, EXISTS (SELECT 1 FROM b WHERE b.k < a.k AND b.v < a.k) FROM a ORDER BY id;
SELECT id, k IN (SELECT k - 5 FROM b WHERE b.v > a.k) FROM a ORDER BY id;
SELECT id, (SELECT v FROM b WHERE b.k < a.k) FROM a ORDER BY id;
-- In groups, in ORDER BY, in a derived table.
SELECT g, sum((SELECT count(*) FROM b WHERE b.k < a.k)) FROM a GROUP BY g ORDER BY g;
SELECT id, (SELECT count(*) FROM b WHERE b.k < a.k) AS n FROM a ORDER BY n DESC, id;
SELECT id FROM (SELECT id, (SELECT count(*) FROM b WHERE b.k < a.k) AS n FROM a) x WHERE n > 1 ORDER BY id;
-- Two levels; the innermost name counts.
SELECT id, (SELECT count(*) FROM b WHERE b.k < a.k AND b.v > (SELECT min(c.v) FROM b c WHERE c.k > a.k)) FROM a ORDER BY id;
SELECT id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k > a.k AND EXISTS (SELECT 1 FROM b c WHERE c.k > b.k AND c.v < a.k)) ORDER BY id;
SELECT id, (SELECT count(*) FROM a x WHERE x.k < (SELECT max(a.k) FROM a WHERE a.id > x.id)) FROM a ORDER BY id;
-- Of changes.
UPDATE a SET k = (SELECT v FROM b WHERE b.k < a.k ORDER BY v LIMIT 1, 1) WHERE id = 3;
DELETE FROM a WHERE (SELECT count(*) FROM b WHERE b.k < a.k) = 1;
SELECT * FROM a ORDER BY id;
-- Many levels are planned in no time.
SELECT 1 FROM DUAL WHERE EXISTS (SELECT 1 FROM b b1 WHERE EXISTS (SELECT 1 FROM b b2 WHERE b2.id = b1.id AND EXISTS (SELECT 1 FROM b b3 WHERE b3.id = b2.id AND EXISTS (SELECT 1 FROM b b4 WHERE b4.id = b3.id AND EXISTS (SELECT 1 FROM b b5 WHERE b5.id = b4.id AND EXISTS (SELECT 1 FROM b b6 WHERE b6.id = b5.id AND EXISTS (SELECT 1 FROM b b7 WHERE b7.id = b6.id AND EXISTS (SELECT 1 FROM b b8 WHERE b8.id = b7.id))))))));
-- The order of rows by what a subquery says of each.
SELECT id FROM b ORDER BY (SELECT count(*) FROM a WHERE a.k > b.k) DESC, id;
SELECT * FROM b ORDER BY (SELECT max(a.id) FROM a WHERE a.k > b.k), id DESC LIMIT 3;
SELECT k, count(*) FROM b GROUP BY k ORDER BY (SELECT count(*) FROM a WHERE a.k > b.k), k;
