'use strict';
/** One region, one client, all suites: tables, rows, filters, batches, ranges, signatures. */

const { after, before, describe } = require('node:test');
const TableStore = require('tablestore');
const { bind } = require('./steps');
const { start } = require('./server');

const context = { made: [], count: 0 };

context.makeClient = (changes = {}) => new TableStore.Client({
  accessKeyId: context.server.keyId,
  secretAccessKey: context.server.secret,
  endpoint: context.server.endpoint,
  instancename: context.server.instance,
  maxRetries: 2,
  httpOptions: { timeout: 20000, maxSockets: 8 },
  ...changes,
});

context.tableParams = (tableName, changes = {}) => ({
  tableMeta: {
    tableName,
    primaryKey: changes.primaryKey
      || [{ name: 'p', type: 'STRING' }, { name: 'n', type: 'INTEGER' }],
    definedColumn: changes.definedColumn,
  },
  reservedThroughput: { capacityUnit: { read: 0, write: 0 } },
  tableOptions: { timeToLive: -1, maxVersions: 1, ...changes.tableOptions },
});

/** Makes a table that is deleted after the suite, and binds the short calls to it. */
context.table = async (changes) => {
  context.count += 1;
  const name = `node_${process.pid}_${context.count}`;
  await context.client.createTable(context.tableParams(name, changes));
  context.made.push(name);
  return bind(context.client, name);
};

describe('node sdk', { timeout: 300000 }, () => {
  before(async () => {
    context.server = await start();
    context.client = context.makeClient();
  });

  after(async () => {
    for (const tableName of context.made) {
      await context.client.deleteTable({ tableName }).catch(() => {});
    }
    if (context.server) await context.server.stop();
  });

  describe('tables', () => require('./tables')(context));
  describe('rows', () => require('./rows')(context));
  describe('conditions and filters', () => require('./conditions')(context));
  describe('batches', () => require('./batches')(context));
  describe('ranges', () => require('./ranges')(context));
  describe('signatures', () => require('./signatures')(context));
});
