-- WITH ROLLUP, rows of values in subqueries, and units of time of two parts.
CREATE TABLE t (id INT PRIMARY KEY, year INT, kind VARCHAR(10), n INT, d DATETIME);
INSERT INTO t VALUES (1, 2020, 'a', 1, '2020-01-02 03:04:05'), (2, 2020, 'b', 2, '2020-05-06 07:08:09'), (3, 2021, 'a', 4, '2021-01-01 00:00:00'), (4, 2021, 'a', 8, NULL), (5, NULL, 'c', 16, '2021-12-31 23:59:59');
SELECT year, sum(n) FROM t GROUP BY year WITH ROLLUP;
SELECT year, kind, sum(n), count(*), grouping(year), grouping(kind) FROM t GROUP BY year, kind WITH ROLLUP;
SELECT if(grouping(kind), 'all', kind) k, max(n) FROM t GROUP BY kind WITH ROLLUP ORDER BY k;
SELECT kind, sum(n) FROM t GROUP BY kind WITH ROLLUP HAVING grouping(kind) = 0 ORDER BY 1;
SELECT n % 2 odd, count(*) FROM t GROUP BY odd WITH ROLLUP;
SELECT year(d) y, month(d) m, count(*) FROM t WHERE d IS NOT NULL GROUP BY 1, 2 WITH ROLLUP;
SELECT count(*) FROM (SELECT year, kind FROM t GROUP BY year, kind WITH ROLLUP) r;
CREATE TABLE u (y INT, k VARCHAR(10), w INT);
INSERT INTO u VALUES (2020, 'a', 1), (2021, NULL, 2), (NULL, 'c', 3);
SELECT id FROM t WHERE (year, kind) IN (SELECT y, k FROM u) ORDER BY id;
-- Unknown: (2021, 'a') and (NULL, 'c') may be there.
SELECT id FROM t WHERE (year, kind) NOT IN (SELECT y, k FROM u) ORDER BY id;
SELECT id FROM t WHERE NOT (year, kind) IN (SELECT y, k FROM u WHERE k IS NOT NULL AND y IS NOT NULL) ORDER BY id;
SELECT id FROM t WHERE (year, kind) IN (SELECT y, k FROM u WHERE u.w = t.n) ORDER BY id;
SELECT id FROM t WHERE (id, n) IN (SELECT id, n FROM t x WHERE x.year = t.year AND x.n > 1) ORDER BY id;
SELECT id FROM t WHERE (year, kind) IN (SELECT y, k FROM u) OR (id, n) IN (SELECT 4, 8) ORDER BY id;
SELECT id FROM t WHERE (year, kind) IN (SELECT year, max(kind) FROM t GROUP BY year) ORDER BY id;
SELECT id FROM t WHERE (year, n) IN ((2020, 1), (2021, 8), (NULL, 16)) ORDER BY id;
SELECT id FROM t WHERE (year, n) NOT IN ((2020, 1), (2021, 8)) ORDER BY id;
SELECT id FROM t WHERE (year, kind) = (SELECT y, k FROM u WHERE w = 1) ORDER BY id;
SELECT id FROM t WHERE (year, kind) = (SELECT y, k FROM u);
DELETE FROM u WHERE (y, k) IN (SELECT year, kind FROM t WHERE n = 1);
SELECT count(*) FROM u;
SELECT id, d + INTERVAL '1:30' HOUR_MINUTE, d - INTERVAL '1 12' DAY_HOUR, d + INTERVAL '1-1' YEAR_MONTH FROM t ORDER BY id;
SELECT id, extract(YEAR_MONTH FROM d), extract(DAY_HOUR FROM d), extract(MINUTE_SECOND FROM d) FROM t ORDER BY id;
SELECT id FROM t WHERE d < '2020-01-02 00:00:00' + INTERVAL '3:05' HOUR_MINUTE;
