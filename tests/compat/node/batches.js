'use strict';
const assert = require('node:assert/strict');
const { before, test } = require('node:test');
const {
  EXPECT_NOT_EXIST, TableStore, cells, condition, invalid, key, long, plain, refused,
} = require('./steps');

module.exports = (context) => {
  let table;
  before(async () => { table = await context.table(); });

  const item = (type, primaryKey, attributeColumns, more = {}) => ({
    type, condition: condition(), primaryKey, attributeColumns, ...more,
  });
  const write = async (rows) => (await context.client.batchWriteRow({
    tables: [{ tableName: table.name, rows }],
  })).tables;
  const fetch = async (keys, more = {}) => (await context.client.batchGetRow({
    tables: [{ tableName: table.name, primaryKey: keys, ...more }],
  })).tables[0];

  test('put, update and delete in one batch', async () => {
    await table.put(key('mix', 2), [{ a: long(1) }]);
    await table.put(key('mix', 3), [{ a: long(1) }]);
    const answer = await write([
      item('PUT', key('mix', 1), [{ v: 'new' }], {
        returnContent: { returnType: TableStore.ReturnType.Primarykey },
      }),
      item('UPDATE', key('mix', 2), [{ PUT: [{ b: 'x' }] }, { INCREMENT: [{ a: long(4) }] }], {
        returnContent: { returnType: TableStore.ReturnType.AfterModify, returnColumns: ['a'] },
      }),
      item('DELETE', key('mix', 3)),
    ]);
    assert.deepEqual(answer.map((one) => one.isOk), [true, true, true]);
    assert.deepEqual(answer[0].primaryKey.map((one) => plain(one.value)), ['mix', 1n]);
    assert.equal(plain(answer[1].attributes[0].columnValue), 5n);
    assert.deepEqual(answer.map((one) => one.capacityUnit.write), [1, 1, 1]);
    const found = await fetch([key('mix', 3), key('mix', 2), key('mix', 1), key('mix', 2)]);
    assert.deepEqual(found.map(cells), [null, { a: 5n, b: 'x' }, { v: 'new' }, { a: 5n, b: 'x' }]);
  });

  test('the same row several times applies in order', async () => {
    const answer = await write([
      item('PUT', key('same'), [{ a: long(1) }]),
      item('PUT', key('same'), [{ b: long(2) }]),
      item('UPDATE', key('same'), [{ INCREMENT: [{ b: long(5) }] }]),
      item('UPDATE', key('same'), [{ INCREMENT: [{ b: long(5) }] }]),
    ]);
    assert.ok(answer.every((one) => one.isOk));
    assert.deepEqual(await table.read(key('same')), { b: 12n });
  });

  test('a failed row does not hinder the others', async () => {
    await table.put(key('fail', 2), [{ v: 'old' }]);
    const absent = { condition: condition(EXPECT_NOT_EXIST) };
    const answer = await write([
      item('PUT', key('fail', 1), [{ v: 'x' }]),
      item('PUT', key('fail', 2), [{ v: 'x' }], absent),
      item('PUT', [{ p: 'fail' }], [{ v: 'x' }]),
    ]);
    assert.deepEqual(answer.map((one) => one.isOk), [true, false, false]);
    assert.equal(answer[1].errorCode, 'OTSConditionCheckFail');
    assert.equal(answer[1].errorMessage, 'Condition check failed.');
    assert.equal(answer[2].errorCode, 'OTSInvalidPK');
    assert.equal(answer[2].errorMessage, 'Validate PK size fail. Input: 1, Meta: 2.');
    assert.deepEqual(await table.read(key('fail', 2)), { v: 'old' });
  });

  test('batches have their limits', async () => {
    const rows = (count) => Array.from({ length: count }, (_, index) => (
      item('PUT', key('many', index), [{ v: 'x' }])));
    assert.equal((await write(rows(200))).filter((one) => one.isOk).length, 200);
    await invalid('Rows count exceeds the upper limit: 200.', () => write(rows(201)));
    const keys = (count) => Array.from({ length: count }, (_, index) => key('many', index));
    assert.equal((await fetch(keys(100))).length, 100);
    await invalid('Rows count exceeds the upper limit: 100.', () => fetch(keys(101)));
    await invalid(`No operation is specified for table: '${table.name}'.`, () => write([]));
    await invalid('No ', () => fetch([]));
  });

  test('read options apply to the batch', async () => {
    await table.put(key('pick'), ['a', 'b', 'c'].map((name) => ({ [name]: name })));
    assert.deepEqual((await fetch([key('pick')], { columnsToGet: ['b'] })).map(cells),
      [{ b: 'b' }]);
    assert.deepEqual((await fetch([key('pick')], { startColumn: 'b', endColumn: 'c' })).map(cells),
      [{ b: 'b' }]);
    const columnFilter = new TableStore.SingleColumnCondition(
      'a', 'z', TableStore.ComparatorType.EQUAL, false);
    assert.deepEqual((await fetch([key('pick')], { columnFilter })).map(cells), [null]);
  });

  test('a missing table fails the whole read', async () => {
    await refused(404, 'OTSObjectNotExist', 'Requested table does not exist.',
      () => context.client.batchGetRow({
        tables: [{ tableName: 'nothere', primaryKey: [key()] }],
      }));
  });
};
