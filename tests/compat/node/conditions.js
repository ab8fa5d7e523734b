'use strict';
const assert = require('node:assert/strict');
const { before, test } = require('node:test');
const { IGNORE, TableStore, checkFailed, condition, invalid, key, long } = require('./steps');

const {
  ColumnPaginationFilter, ComparatorType, CompositeCondition, LogicalOperator,
  SingleColumnCondition,
} = TableStore;

const one = (name, value, comparator, passes, latest) => (
  new SingleColumnCondition(name, value, comparator, passes, latest));

function many(operator, ...parts) {
  const found = new CompositeCondition(operator);
  parts.forEach((part) => found.addSubCondition(part));
  return found;
}

module.exports = (context) => {
  let table;
  before(async () => {
    table = await context.table();
    await table.put(key('row'), [{ v: long(5) }, { s: 'm' }, { d: 1.5 }, { b: true }]);
  });

  const passes = async (columnFilter) => (await table.read(key('row'), { columnFilter })) !== null;

  test('each comparator', async () => {
    const expected = {
      EQUAL: [false, true, false], NOT_EQUAL: [true, false, true],
      GREATER_THAN: [true, false, false], GREATER_EQUAL: [true, true, false],
      LESS_THAN: [false, false, true], LESS_EQUAL: [false, true, true],
    };
    for (const [name, results] of Object.entries(expected)) {
      for (const [index, value] of [4, 5, 6].entries()) {
        assert.equal(await passes(one('v', long(value), ComparatorType[name])), results[index],
          `${name} ${value}`);
      }
    }
    assert.ok(await passes(one('s', 'n', ComparatorType.LESS_THAN)));
    assert.ok(await passes(one('d', 1.25, ComparatorType.GREATER_THAN)));
    assert.ok(await passes(one('b', true, ComparatorType.EQUAL)));
    assert.ok(!await passes(one('v', '5', ComparatorType.EQUAL)));
  });

  test('missing columns pass only where told', async () => {
    assert.ok(await passes(one('no', 'x', ComparatorType.EQUAL, true)));
    assert.ok(!await passes(one('no', 'x', ComparatorType.EQUAL, false)));
  });

  test('and, or, not', async () => {
    const yes = one('v', long(5), ComparatorType.EQUAL);
    const no = one('v', long(6), ComparatorType.EQUAL);
    assert.ok(await passes(many(LogicalOperator.AND, yes, yes)));
    assert.ok(!await passes(many(LogicalOperator.AND, yes, no)));
    assert.ok(await passes(many(LogicalOperator.OR, no, yes)));
    assert.ok(!await passes(many(LogicalOperator.NOT, yes)));
    assert.ok(await passes(many(LogicalOperator.NOT, many(LogicalOperator.AND, yes, no))));
  });

  test('composites of the wrong size are refused', async () => {
    const part = one('v', long(5), ComparatorType.EQUAL);
    await invalid('Invalid NOT operator: the number of sub-filters must be 1.',
      () => passes(many(LogicalOperator.NOT, part, part)));
    await invalid('Invalid AND/OR operator: the number of sub-filters must be more than 1.',
      () => passes(many(LogicalOperator.OR, part)));
    await invalid('The count of filter exceeds the max: 32.',
      () => passes(many(LogicalOperator.AND, ...Array(32).fill(part))));
  });

  test('a column condition guards put, update and delete', async () => {
    const guard = (value) => ({
      condition: condition(IGNORE, one('v', long(value), ComparatorType.EQUAL, false)),
    });
    await table.put(key('guard'), [{ v: long(1) }]);
    await checkFailed(() => table.put(key('guard'), [{ v: long(9) }], guard(2)));
    await checkFailed(() => table.update(key('guard'), [{ PUT: [{ v: long(9) }] }], guard(2)));
    await checkFailed(() => table.remove(key('guard'), guard(2)));
    await table.update(key('guard'), [{ PUT: [{ v: long(2) }] }], guard(1));
    assert.deepEqual(await table.read(key('guard')), { v: 2n });
    await table.remove(key('guard'), guard(2));
    assert.equal(await table.read(key('guard')), null);
  });

  test('a pagination filter pages over the columns of a row', async () => {
    await table.put(key('wide'), Array.from({ length: 20 }, (_, index) => (
      { [`c${String(index).padStart(2, '0')}`]: long(index) })));
    const names = async (limit, offset) => Object.keys(await table.read(key('wide'), {
      columnFilter: new ColumnPaginationFilter(limit, offset),
    }));
    assert.deepEqual(await names(3, 0), ['c00', 'c01', 'c02']);
    assert.deepEqual(await names(3, 10), ['c10', 'c11', 'c12']);
    assert.deepEqual(await names(100, 18), ['c18', 'c19']);
  });
};
