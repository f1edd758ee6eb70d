-- What is asked of columns that are not there.
CREATE TABLE rows_only (id INT PRIMARY KEY, v INT);
INSERT INTO rows_only VALUES (1, 10), (2, 20);
ALTER TABLE rows_only SET COLUMN REPLICA 2;
ALTER TABLE rows_only SET TIFLASH REPLICA 5;
SHOW WARNINGS;
