'use strict';
const assert = require('node:assert/strict');
const { before, test } = require('node:test');
const { TableStore, cells, invalid, key, keyOf, long } = require('./steps');

const { INF_MAX, INF_MIN } = TableStore;
const LEAST = [{ p: INF_MIN }, { n: INF_MIN }];
const GREATEST = [{ p: INF_MAX }, { n: INF_MAX }];
const BACKWARD = { direction: TableStore.Direction.BACKWARD };

module.exports = (context) => {
  let table;
  const every = [];
  before(async () => {
    table = await context.table();
    for (const p of ['a', 'b', 'c']) {
      const rows = [];
      for (let n = 0; n < 10; n += 1) {
        every.push([p, BigInt(n)]);
        rows.push({
          type: 'PUT',
          condition: new TableStore.Condition(TableStore.RowExistenceExpectation.IGNORE, null),
          primaryKey: key(p, n),
          attributeColumns: [{ v: `${p}${n}` }, { even: n % 2 === 0 }],
        });
      }
      await context.client.batchWriteRow({ tables: [{ tableName: table.name, rows }] });
    }
  });

  const keys = (answer) => answer.rows.map(keyOf);
  const between = (inclusiveStartPrimaryKey, exclusiveEndPrimaryKey, more = {}) => (
    table.range({ inclusiveStartPrimaryKey, exclusiveEndPrimaryKey, ...more }));

  test('forward and backward over all', async () => {
    const forward = await table.range();
    assert.deepEqual(keys(forward), every);
    assert.equal(forward.nextStartPrimaryKey, null);
    assert.equal(forward.consumed.capacityUnit.read, 1);
    const backward = await between(GREATEST, LEAST, BACKWARD);
    assert.deepEqual(keys(backward), [...every].reverse());
  });

  test('the start is in and the end is out', async () => {
    assert.deepEqual(keys(await between(key('a', 8), key('b', 2))),
      [['a', 8n], ['a', 9n], ['b', 0n], ['b', 1n]]);
    assert.deepEqual(keys(await between(key('b', 2), key('a', 8), BACKWARD)),
      [['b', 2n], ['b', 1n], ['b', 0n], ['a', 9n]]);
  });

  test('pages join without loss or repeat', async () => {
    for (const limit of [1, 7, 30]) {
      for (const [start, end, more, expected] of [
        [LEAST, GREATEST, {}, every], [GREATEST, LEAST, BACKWARD, [...every].reverse()],
      ]) {
        const found = [];
        let from = start;
        while (from) {
          const answer = await between(from, end, { limit, ...more });
          assert.ok(answer.rows.length <= limit);
          found.push(...keys(answer));
          assert.ok(found.length <= every.length);
          from = answer.nextStartPrimaryKey
            && answer.nextStartPrimaryKey.map((one) => ({ [one.name]: one.value }));
        }
        assert.deepEqual(found, expected);
      }
    }
  });

  test('an empty range is an empty list', async () => {
    const answer = await between(key('x', 0), key('y', 0));
    assert.deepEqual(answer.rows, []);
    assert.equal(answer.nextStartPrimaryKey, null);
  });

  test('columns and filters apply to each row', async () => {
    const named = await table.range({ columnsToGet: ['v'] });
    assert.ok(named.rows.every((row) => Object.keys(cells(row)).join() === 'v'));
    const columnFilter = new TableStore.SingleColumnCondition(
      'even', true, TableStore.ComparatorType.EQUAL, false);
    assert.equal((await table.range({ columnFilter })).rows.length, 15);
  });

  test('bounds the wrong way round are refused', async () => {
    await invalid('Begin key must less than end key in FORWARD',
      () => between(key('b'), key('a')));
    await invalid('Begin key must more than end key in BACKWARD',
      () => between(key('a'), key('b'), BACKWARD));
    await invalid('The limit must be greater than 0.', () => table.range({ limit: -1 }));
  });

  test('integers order by value', async () => {
    const numbers = await context.table({ primaryKey: [{ name: 'n', type: 'INTEGER' }] });
    const values = ['-9223372036854775808', '-1', '0', '1', '9223372036854775807'];
    for (const value of [...values].reverse()) await numbers.put([{ n: long(value) }]);
    const answer = await context.client.getRange({
      tableName: numbers.name,
      direction: TableStore.Direction.FORWARD,
      inclusiveStartPrimaryKey: [{ n: INF_MIN }],
      exclusiveEndPrimaryKey: [{ n: INF_MAX }],
    });
    assert.deepEqual(keys(answer), values.map((value) => [BigInt(value)]));
  });
};
