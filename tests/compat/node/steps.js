'use strict';
/** Short words for what most tests do. */

const assert = require('node:assert/strict');
const TableStore = require('tablestore');

const { Long } = TableStore;
const { IGNORE, EXPECT_EXIST, EXPECT_NOT_EXIST } = TableStore.RowExistenceExpectation;

const long = (number) => (typeof number === 'string'
  ? Long.fromString(number) : Long.fromNumber(number));

/** A value as it compares: 64 bit integers as `123n`. */
function plain(value) {
  if (value !== null && typeof value === 'object' && typeof value.toNumber === 'function') {
    return BigInt(value.toString(10));
  }
  return Buffer.isBuffer(value) ? value.toString('hex') : value;
}

const key = (p = 'a', n = 1) => [{ p }, { n: long(n) }];
const condition = (existence = IGNORE, column = null) => (
  new TableStore.Condition(existence, column));

/** {name: newest value} of a row, or null where there is none. */
function cells(row) {
  if (!row || !row.primaryKey) return null;
  const found = {};
  for (const one of row.attributes) {
    if (!(one.columnName in found)) found[one.columnName] = plain(one.columnValue);
  }
  return found;
}

const keyOf = (row) => row.primaryKey.map((one) => plain(one.value));

/** Expects a refusal. This SDK gives the status as `code`, and the body's bytes as text. */
async function refused(status, code, text, work) {
  await assert.rejects(work, (error) => {
    assert.equal(error.code, status, error.message);
    assert.ok(error.message.includes(code), error.message);
    if (text) assert.ok(error.message.includes(text), error.message);
    assert.match(error.message, /requestId:\S+/);
    return true;
  });
}

const invalid = (text, work) => refused(400, 'OTSParameterInvalid', text, work);
const checkFailed = (work) => (
  refused(403, 'OTSConditionCheckFail', 'Condition check failed.', work));

/** Calls bound to one client and one table. */
function bind(client, tableName) {
  return {
    name: tableName,
    put: (primaryKey, attributeColumns = [], more = {}) => client.putRow({
      tableName, condition: condition(), primaryKey, attributeColumns, ...more,
    }),
    update: (primaryKey, updateOfAttributeColumns, more = {}) => client.updateRow({
      tableName, condition: condition(), primaryKey, updateOfAttributeColumns, ...more,
    }),
    remove: (primaryKey, more = {}) => client.deleteRow({
      tableName, condition: condition(), primaryKey, ...more,
    }),
    get: async (primaryKey, more = {}) => (
      (await client.getRow({ tableName, primaryKey, ...more })).row),
    read: async (primaryKey, more = {}) => (
      cells((await client.getRow({ tableName, primaryKey, ...more })).row)),
    range: (more = {}) => client.getRange({
      tableName,
      direction: TableStore.Direction.FORWARD,
      inclusiveStartPrimaryKey: [{ p: TableStore.INF_MIN }, { n: TableStore.INF_MIN }],
      exclusiveEndPrimaryKey: [{ p: TableStore.INF_MAX }, { n: TableStore.INF_MAX }],
      ...more,
    }),
  };
}

module.exports = {
  EXPECT_EXIST, EXPECT_NOT_EXIST, IGNORE, TableStore, bind, cells, checkFailed, condition,
  invalid, key, keyOf, long, plain, refused,
};
