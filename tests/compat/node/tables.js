'use strict';
const assert = require('node:assert/strict');
const { test } = require('node:test');
const { TableStore, bind, invalid, key, long, refused } = require('./steps');

module.exports = (context) => {
  test('a created table is listed until it is deleted', async () => {
    const table = await context.table();
    assert.ok((await context.client.listTable({})).tableNames.includes(table.name));
    const answer = await context.client.deleteTable({ tableName: table.name });
    assert.ok(answer.RequestId);
    assert.ok(!(await context.client.listTable({})).tableNames.includes(table.name));
  });

  test('describe answers what create was given', async () => {
    const table = await context.table({
      primaryKey: [
        { name: 'a', type: 'STRING' }, { name: 'b', type: 'INTEGER' },
        { name: 'c', type: 'BINARY' },
      ],
      definedColumn: [
        { name: 'x', type: TableStore.DefinedColumnType.DCT_INTEGER },
        { name: 'y', type: TableStore.DefinedColumnType.DCT_STRING },
      ],
      tableOptions: { timeToLive: 864000, maxVersions: 7, maxTimeDeviation: 3600 },
    });
    const found = await context.client.describeTable({ tableName: table.name });
    assert.equal(found.tableMeta.tableName, table.name);
    assert.deepEqual(found.tableMeta.primaryKey.map((one) => [one.name, one.type]),
      [['a', 2], ['b', 1], ['c', 3]]);
    assert.deepEqual(found.tableMeta.definedColumn.map((one) => [one.name, one.type]),
      [['x', 1], ['y', 4]]);
    assert.equal(found.tableOptions.timeToLive, 864000);
    assert.equal(found.tableOptions.maxVersions, 7);
    assert.equal(Number(found.tableOptions.deviationCellVersionInSec), 3600);
    assert.equal(found.tableStatus, 1);
    assert.deepEqual(found.indexMetas, []);
  });

  test('update changes only what it names', async () => {
    const table = await context.table({ tableOptions: { timeToLive: 864000 } });
    const answer = await context.client.updateTable({
      tableName: table.name, tableOptions: { maxVersions: 9 },
    });
    assert.equal(answer.tableOptions.maxVersions, 9);
    assert.equal(answer.tableOptions.timeToLive, 864000);
    assert.ok(answer.reservedThroughputDetails);
  });

  test('a table may forbid UpdateRow', async () => {
    const table = await context.table();
    await context.client.updateTable({
      tableName: table.name, tableOptions: { allowUpdate: false },
    });
    await invalid('', () => table.update(key(), [{ PUT: [{ v: 'x' }] }]));
    await table.put(key(), [{ v: 'y' }]);
    assert.deepEqual(await table.read(key()), { v: 'y' });
  });

  test('a second create of a name is refused', async () => {
    const table = await context.table();
    await refused(409, 'OTSObjectAlreadyExist', 'Requested table already exists.',
      () => context.client.createTable(context.tableParams(table.name)));
  });

  test('a missing table is named so', async () => {
    const missing = bind(context.client, 'nothere');
    const text = 'Requested table does not exist.';
    for (const work of [
      () => context.client.describeTable({ tableName: 'nothere' }),
      () => context.client.deleteTable({ tableName: 'nothere' }),
      () => missing.get(key()),
      () => missing.put(key(), [{ v: 'x' }]),
      () => missing.range(),
    ]) await refused(404, 'OTSObjectNotExist', text, work);
  });

  test('bad names and options are refused', async () => {
    const create = (name, changes) => () => (
      context.client.createTable(context.tableParams(name, changes)));
    await invalid("Invalid table name: '1bad'.", create('1bad'));
    await invalid("Invalid column name: 'a-b'.",
      create('bad', { primaryKey: [{ name: 'a-b', type: 'STRING' }] }));
    await invalid('The number of primary key columns must be in range: [1, 4].',
      create('bad', { primaryKey: [] }));
    await invalid("Duplicated primary key name: 'p'.", create('bad', {
      primaryKey: [{ name: 'p', type: 'STRING' }, { name: 'p', type: 'STRING' }],
    }));
    await invalid('', create('bad', { tableOptions: { maxVersions: -1 } }));
    await invalid('', create('bad', { tableOptions: { timeToLive: -2 } }));
  });

  test('auto-increment keys grow and are returned', async () => {
    const table = await context.table({
      primaryKey: [
        { name: 's', type: 'STRING' }, { name: 'id', type: 'INTEGER', option: 'AUTO_INCREMENT' },
      ],
    });
    const given = [];
    for (let number = 0; number < 3; number += 1) {
      const answer = await table.put([{ s: 'x' }, { id: TableStore.PK_AUTO_INCR }],
        [{ v: long(number) }], { returnContent: { returnType: TableStore.ReturnType.Primarykey } });
      given.push(answer.row.primaryKey[1].value.toNumber());
    }
    assert.deepEqual(given, [...new Set(given)].sort((a, b) => a - b));
    for (const [number, id] of given.entries()) {
      assert.deepEqual(await table.read([{ s: 'x' }, { id: long(id) }]), { v: BigInt(number) });
    }
  });

  test('search indexes are an empty list, other operations are refused as unsupported',
    async () => {
      const table = await context.table();
      const tableName = table.name;
      assert.deepEqual((await context.client.listSearchIndex({ tableName })).indices, []);
      await invalid("Unsupported operation: 'DescribeSearchIndex'.",
        () => context.client.describeSearchIndex({ tableName, indexName: 'i' }));
      await invalid("Unsupported operation: 'StartLocalTransaction'.",
        () => context.client.startLocalTransaction({ tableName, primaryKey: [{ p: 'a' }] }));
      await invalid("Unsupported operation: 'DropIndex'.",
        () => context.client.dropIndex({ mainTableName: tableName, indexName: 'i' }));
    });
};
