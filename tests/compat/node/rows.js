'use strict';
const assert = require('node:assert/strict');
const { before, test } = require('node:test');
const {
  EXPECT_EXIST, EXPECT_NOT_EXIST, TableStore, checkFailed, condition, invalid, key, keyOf, long,
  plain, refused,
} = require('./steps');

module.exports = (context) => {
  let table;
  let versions;
  before(async () => {
    table = await context.table();
    versions = await context.table({ tableOptions: { maxVersions: 5 } });
  });

  const values = [
    long(0), long(-1), long('9223372036854775807'), long('-9223372036854775808'),
    1.5, -0.32, 5e-324, 1e308, Infinity, -Infinity, true, false, '', 'x', '表格存储',
    '🚀 rocket', 'nul\u0000inside', Buffer.from([]), Buffer.from([0, 255, 128]),
  ];

  test('each value comes back with its type', async () => {
    for (const [number, value] of values.entries()) {
      await table.put(key('values', number), [{ v: value }]);
      const row = await table.get(key('values', number));
      assert.equal(row.attributes.length, 1);
      const found = row.attributes[0].columnValue;
      assert.equal(typeof found, typeof value);
      assert.deepEqual(plain(found), plain(value));
    }
  });

  test('a NaN and a negative zero come back', async () => {
    await table.put(key('doubles'), [{ nan: NaN }, { zero: -0 }]);
    const found = await table.read(key('doubles'));
    assert.ok(Number.isNaN(found.nan));
    assert.ok(Object.is(found.zero, -0));
  });

  test('keys of each type', async () => {
    const mixed = await context.table({
      primaryKey: [
        { name: 's', type: 'STRING' }, { name: 'i', type: 'INTEGER' },
        { name: 'b', type: 'BINARY' },
      ],
    });
    const primaryKey = [{ s: '表格' }, { i: long(-5) }, { b: Buffer.from([1, 2, 255]) }];
    await mixed.put(primaryKey, [{ v: 'x' }]);
    assert.deepEqual(keyOf(await mixed.get(primaryKey)), ['表格', -5n, '0102ff']);
  });

  test('a missing row is empty', async () => {
    const answer = await context.client.getRow({
      tableName: table.name, primaryKey: key('nothere'),
    });
    assert.deepEqual(answer.row, {});
    assert.equal(answer.consumed.capacityUnit.read, 1);
    assert.equal(answer.consumed.capacityUnit.write, 0);
    assert.ok(answer.RequestId);
  });

  test('put replaces, update merges, delete removes', async () => {
    await table.put(key('life'), [{ a: 'x' }, { b: long(1) }]);
    await table.put(key('life'), [{ c: 'y' }]);
    assert.deepEqual(await table.read(key('life')), { c: 'y' });
    await table.update(key('life'), [{ PUT: [{ d: true }] }]);
    assert.deepEqual(await table.read(key('life')), { c: 'y', d: true });
    await table.update(key('life'), [{ DELETE_ALL: ['c'] }]);
    assert.deepEqual(await table.read(key('life')), { d: true });
    await table.remove(key('life'));
    assert.equal(await table.read(key('life')), null);
  });

  test('a row of only a key exists', async () => {
    await table.put(key('bare'));
    assert.deepEqual(await table.read(key('bare')), {});
    await checkFailed(() => table.put(key('bare'), [], { condition: condition(EXPECT_NOT_EXIST) }));
  });

  test('increment counts and answers the new value', async () => {
    const count = (number) => table.update(key('count'), [{ INCREMENT: [{ v: long(number) }] }], {
      returnContent: { returnType: TableStore.ReturnType.AfterModify, returnColumns: ['v'] },
    });
    assert.equal(plain((await count(7)).row.attributes[0].columnValue), 7n);
    const answer = await count(-10);
    assert.equal(answer.row.attributes[0].columnName, 'v');
    assert.equal(plain(answer.row.attributes[0].columnValue), -3n);
    await table.put(key('text'), [{ v: 'x' }]);
    await invalid('', () => table.update(key('text'), [{ INCREMENT: [{ v: long(1) }] }]));
  });

  test('the key is returned where asked', async () => {
    const returnContent = { returnType: TableStore.ReturnType.Primarykey };
    const put = await table.put(key('back'), [{ v: 'x' }], { returnContent });
    assert.deepEqual(keyOf(put.row), ['back', 1n]);
    const update = await table.update(key('back'), [{ PUT: [{ v: 'y' }] }], { returnContent });
    assert.deepEqual(keyOf(update.row), ['back', 1n]);
    const removed = await table.remove(key('back'), { returnContent });
    assert.deepEqual(keyOf(removed.row), ['back', 1n]);
  });

  test('expectations on existence', async () => {
    const exists = { condition: condition(EXPECT_EXIST) };
    const absent = { condition: condition(EXPECT_NOT_EXIST) };
    await checkFailed(() => table.put(key('exist'), [{ v: 'x' }], exists));
    await checkFailed(() => table.update(key('exist'), [{ PUT: [{ v: 'x' }] }], exists));
    await checkFailed(() => table.remove(key('exist'), exists));
    await table.put(key('exist'), [{ v: 'x' }], absent);
    await checkFailed(() => table.put(key('exist'), [{ v: 'y' }], absent));
    assert.deepEqual(await table.read(key('exist')), { v: 'x' });
    await table.remove(key('exist'), exists);
  });

  test('versions come newest first and are deleted one by one', async () => {
    const now = Date.now();
    for (let step = 0; step < 7; step += 1) {
      await versions.update(key('v'), [{ PUT: [{ v: `${step}`, timestamp: now + step }] }]);
    }
    const found = async (more) => (await versions.get(key('v'), more)).attributes
      .map((one) => [one.columnValue, one.timestamp.toNumber() - now]);
    const all = [6, 5, 4, 3, 2].map((step) => [`${step}`, step]);
    assert.deepEqual(await found({ maxVersions: 100 }), all);
    assert.deepEqual(await found({ maxVersions: 2 }), all.slice(0, 2));
    const timeRange = { startTime: String(now + 3), endTime: String(now + 5) };
    assert.deepEqual(await found({ maxVersions: 100, timeRange }), [['4', 4], ['3', 3]]);
    await versions.update(key('v'), [{ DELETE: [{ v: now + 5 }] }]);
    assert.deepEqual((await found({ maxVersions: 100 })).map((one) => one[1]), [6, 4, 3, 2]);
  });

  test('columns are picked by name and by range', async () => {
    await table.put(key('pick'), ['a', 'b', 'c', 'd'].map((name) => ({ [name]: name })));
    assert.deepEqual(await table.read(key('pick'), { columnsToGet: ['d', 'b', 'no'] }),
      { b: 'b', d: 'd' });
    assert.deepEqual(await table.read(key('pick'), { startColumn: 'b', endColumn: 'd' }),
      { b: 'b', c: 'c' });
    assert.equal(await table.read(key('pick'), { columnsToGet: ['no'] }), null);
  });

  test('wrong keys are told apart', async () => {
    const wrong = [
      [[{ p: 'a' }], 'Validate PK size fail. Input: 1, Meta: 2.'],
      [[{ q: 'a' }, { n: long(1) }], 'Validate PK name fail. Input: q, Meta: p.'],
      [[{ p: long(1) }, { n: long(1) }],
        'Validate PK type fail. Input: VT_INTEGER, Meta: VT_STRING.'],
    ];
    for (const [primaryKey, text] of wrong) {
      await refused(400, 'OTSInvalidPK', text, () => table.get(primaryKey));
      await refused(400, 'OTSInvalidPK', text, () => table.put(primaryKey, [{ v: 'x' }]));
    }
  });

  test('values and counts have their limits', async () => {
    await table.put(key('full'), [{ v: 'x'.repeat(2097152) }]);
    assert.equal((await table.read(key('full'))).v.length, 2097152);
    await invalid("The length of attribute column: 'v' exceeds the MaxLength:2097152",
      () => table.put(key('full'), [{ v: 'x'.repeat(2097153) }]));
    await invalid("The length of primary key column: 'p' exceeds the MaxLength:1024",
      () => table.put(key('x'.repeat(1025)), [{ v: 'x' }]));
    const columns = (count) => Array.from({ length: count }, (_, index) => (
      { [`c${index}`]: 'x' }));
    await table.put(key('wide'), columns(1024));
    assert.equal(Object.keys(await table.read(key('wide'))).length, 1024);
    await invalid('The number of attribute columns exceeds the limit',
      () => table.put(key('wide'), columns(1025)));
    await invalid("Invalid column name: '1a'.", () => table.put(key(), [{ '1a': 'x' }]));
  });

  test('capacity units are told', async () => {
    const put = await table.put(key('cu'), [{ v: 'x'.repeat(5000) }]);
    assert.deepEqual([put.consumed.capacityUnit.read, put.consumed.capacityUnit.write], [0, 2]);
    const guarded = await table.put(key('cu'), [{ v: 'x' }],
      { condition: condition(EXPECT_EXIST) });
    assert.deepEqual(
      [guarded.consumed.capacityUnit.read, guarded.consumed.capacityUnit.write], [1, 1]);
  });
};
