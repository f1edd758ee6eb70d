-- Filters over joins of tables whose columns have the same names.
CREATE TABLE team (id INT PRIMARY KEY, name VARCHAR(10));
CREATE TABLE job (id INT PRIMARY KEY, team INT, name VARCHAR(10));
INSERT INTO team VALUES (1, 'red'), (2, 'green'), (3, 'blue');
INSERT INTO job VALUES (1, 1, 'a'), (2, 2, 'b'), (3, NULL, 'c'), (4, 3, 'd'), (5, 9, 'e');
SELECT j.id, t.name FROM team t RIGHT JOIN job j ON t.id = j.team WHERE t.id IS NULL ORDER BY j.id;
SELECT j.id, t.id FROM team t RIGHT JOIN job j ON t.id = j.team WHERE t.id IS NULL OR t.id IN (1, 3) ORDER BY j.id;
SELECT j.id, t.id FROM job j LEFT JOIN team t ON t.id = j.team WHERE t.id IS NULL OR t.id IN (1, 3) ORDER BY j.id;
SELECT j.id, t.id FROM job j LEFT JOIN team t ON t.id = j.team WHERE j.id > 3 AND t.id IS NULL;
SELECT j.id, t.id FROM team t JOIN job j ON t.id = j.team WHERE j.id + t.id > 5;
SELECT t.id, j.id FROM team t RIGHT JOIN job j ON t.id = j.team ORDER BY t.id DESC, j.id LIMIT 2;
SELECT t.id, j.id FROM team t RIGHT JOIN job j ON t.id = j.team ORDER BY t.name DESC, j.id LIMIT 3;
SELECT a.id, b.id FROM job a RIGHT JOIN job b ON a.team = b.id WHERE a.name IS NULL OR a.name = 'd' ORDER BY b.id;
SELECT x.id, y.id FROM (SELECT t.id FROM team t RIGHT JOIN job j ON t.id = j.team) x RIGHT JOIN team y ON x.id = y.id WHERE x.id IS NULL OR x.id > 1 ORDER BY y.id;
SELECT max(t.id), min(j.id) FROM team t RIGHT JOIN job j ON t.id = j.team WHERE t.id IS NOT NULL OR j.id = 5;
