// Node's mysql2 against a running server: `query` (text) and `execute` (prepared statements).
'use strict';

const assert = require('node:assert');
const mysql = require('mysql2/promise');

const DATABASE = 'damask_check_mysql2';
const OPTIONS = {
  host: process.env.DAMASK_HOST || '127.0.0.1',
  port: Number(process.env.DAMASK_PORT || 4000),
  user: 'root',
  timezone: 'Z',
  dateStrings: true,
  supportBigNumbers: true,
  bigNumberStrings: true,
};

const COLUMNS = [
  ['id', 'INT NOT NULL PRIMARY KEY'],
  ['i8', 'TINYINT'], ['u8', 'TINYINT UNSIGNED'],
  ['i16', 'SMALLINT'], ['u16', 'SMALLINT UNSIGNED'],
  ['i24', 'MEDIUMINT'], ['u24', 'MEDIUMINT UNSIGNED'],
  ['i32', 'INT'], ['u32', 'INT UNSIGNED'],
  ['i64', 'BIGINT'], ['u64', 'BIGINT UNSIGNED'],
  ['f32', 'FLOAT'], ['f64', 'DOUBLE'], ['n', 'DECIMAL(20,6)'], ['yes', 'BOOL'],
  ['c', 'CHAR(10)'], ['vc', 'VARCHAR(100)'], ['t', 'TEXT'],
  ['bin', 'BINARY(4)'], ['vb', 'VARBINARY(300)'], ['bl', 'BLOB'],
  ['d', 'DATE'], ['dt', 'DATETIME'], ['dt6', 'DATETIME(6)'],
  ['ts', 'TIMESTAMP NULL DEFAULT NULL'], ['tm', 'TIME'],
];
const NAMES = COLUMNS.map(([name]) => name);
const ALL_BYTES = Buffer.from([...Array(256).keys()]);

const ROWS = [
  [1, -128, 0, -32768, 0, -8388608, 0, -2147483648, 0, '-9223372036854775808', '0',
    -0.25, -1.7976931348623157e308, '-99999999999999.999999', 0,
    '', '', '', Buffer.alloc(4), Buffer.alloc(0), Buffer.alloc(0),
    '1000-01-01', '1000-01-01 00:00:00', '1000-01-01 00:00:00.000001', '1970-01-02 00:00:00',
    '-838:59:59'],
  [2, 127, 255, 32767, 65535, 8388607, 16777215, 2147483647, 4294967295,
    '9223372036854775807', '18446744073709551615',
    16384.5, 0.1, '99999999999999.999999', 1,
    '0123456789', 'é'.repeat(100), '日本語 🐬 '.repeat(50),
    Buffer.from([255, 254, 0, 128]), ALL_BYTES, Buffer.concat(Array(20).fill(ALL_BYTES)),
    '9999-12-31', '9999-12-31 23:59:59', '9999-12-31 23:59:59.999999', '2038-01-19 03:14:07',
    '838:59:59'],
  [3, ...Array(COLUMNS.length - 1).fill(null)],
  [4, 1, 1, 1, 1, 1, 1, 1, 1, '1', '1', 1.5, -1e-5, '0.000001', 1,
    '\'"\\', '%_;--', 'a\'b"c\\d\ne\tf\0g\x1ah',
    Buffer.from('\'"\\\0'), Buffer.from([92, 39, 255]), Buffer.from('?;--\r\n'),
    '2024-02-29', '2024-02-29 12:34:56', '2024-02-29 12:34:56.120000', '2024-02-29 12:34:56',
    '00:00:01'],
];

function checkRows(rows, expected, what) {
  assert.strictEqual(rows.length, expected.length, what);
  rows.forEach((row, i) => NAMES.forEach((name, j) => {
    const where = `${what}: row ${expected[i][0]}, column ${name}`;
    assert.deepStrictEqual(row[name], expected[i][j], where);
  }));
}

async function checkError(code, run) {
  await assert.rejects(run, (error) => {
    assert.strictEqual(error.errno, code, error.message);
    return true;
  });
}

async function checkTypes(connection) {
  const columns = COLUMNS.map(([name, type]) => `${name} ${type}`).join(', ');
  const places = COLUMNS.map(() => '?').join(', ');
  await connection.query("SET time_zone = '+00:00'");
  for (const [table, write] of [['a', 'query'], ['b', 'execute']]) {
    await connection.query(`CREATE TABLE ${table} (${columns})`);
    for (const row of ROWS) {
      const [result] = await connection[write](`INSERT INTO ${table} VALUES (${places})`, row);
      assert.strictEqual(result.affectedRows, 1);
    }
    for (const read of ['query', 'execute']) {
      const [rows] = await connection[read](`SELECT * FROM ${table} ORDER BY id`);
      checkRows(rows, ROWS, `${write} then ${read}`);
    }
  }
  for (const id of [2, 3, 99]) {
    const [rows] = await connection.execute('SELECT * FROM b WHERE id = ?', [id]);
    checkRows(rows, ROWS.filter((row) => row[0] === id), `id ${id}`);
  }
  const [rows] = await connection.execute('SELECT * FROM b WHERE vb = ?', [ALL_BYTES]);
  checkRows(rows, [ROWS[1]], 'found by bytes');
}

async function checkTransactions(connection) {
  await connection.beginTransaction();
  await connection.execute('UPDATE b SET i32 = ? WHERE id = ?', [77, 1]);
  await connection.query('DELETE FROM b WHERE id = 2');
  await connection.rollback();
  const [rows] = await connection.query('SELECT * FROM b ORDER BY id');
  checkRows(rows, ROWS, 'rolled back');
}

async function checkErrors(connection) {
  for (const way of ['query', 'execute']) {
    await checkError(1062, () => connection[way]('INSERT INTO b (id) VALUES (1)'));
    await checkError(1146, () => connection[way]('SELECT * FROM no_such_table'));
    await checkError(1064, () => connection[way]('SELEC 1'));
    await checkError(1054, () => connection[way]('SELECT no_such_column FROM b'));
  }
  await checkError(1064, () => connection.query('SELECT 1; SELECT 2'));
}

async function checkPool() {
  const pool = mysql.createPool({ ...OPTIONS, database: DATABASE, multipleStatements: true });
  const sums = await Promise.all([...Array(40).keys()].map(async (i) => {
    const [[row]] = await pool.execute('SELECT id FROM b WHERE id = ?', [1 + (i % 4)]);
    return row.id;
  }));
  assert.strictEqual(sums.reduce((a, b) => a + b), 100);
  const [results] = await pool.query('SELECT 1 AS one; SELECT 2 AS two');
  assert.deepStrictEqual(results.map((rows) => Object.keys(rows[0])), [['one'], ['two']]);
  await pool.end();
}

async function main() {
  const connection = await mysql.createConnection(OPTIONS);
  await connection.query(`DROP DATABASE IF EXISTS ${DATABASE}`);
  await connection.query(`CREATE DATABASE ${DATABASE}`);
  await connection.changeUser({ database: DATABASE });
  await checkTypes(connection);
  await checkTransactions(connection);
  await checkErrors(connection);
  await checkPool();
  await connection.ping();
  await connection.query(`DROP DATABASE ${DATABASE}`);
  await connection.end();
  console.log('ok mysql2');
}

main().catch((error) => {
  console.error(String(error.stack).slice(0, 2000));
  process.exit(1);
});
