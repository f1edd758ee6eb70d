-- Locks by name belong to connections, not to transactions.
SELECT GET_LOCK('job', 0), GET_LOCK('JOB', 0), IS_FREE_LOCK('job'), IS_FREE_LOCK('other');
--@client other
SELECT GET_LOCK('job', 0);
SELECT GET_LOCK('job', 0.2);
SELECT IS_USED_LOCK('job') IS NULL, IS_USED_LOCK('none') IS NULL;
SELECT RELEASE_LOCK('job'), RELEASE_LOCK('none');
SELECT GET_LOCK('second', 0);
--@client main
SELECT RELEASE_LOCK('job');
SELECT RELEASE_LOCK('job');
SELECT RELEASE_LOCK('job');
--@client other
SELECT GET_LOCK('job', 1);
ROLLBACK;
SELECT RELEASE_ALL_LOCKS();
SELECT RELEASE_ALL_LOCKS();
SELECT GET_LOCK('', 1);
SELECT GET_LOCK(NULL, 1);
SELECT GET_LOCK(repeat('x', 65), 1);
DO GET_LOCK('done', 1);
SELECT IS_FREE_LOCK('done');
