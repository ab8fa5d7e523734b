"""Short words for what most tests do."""

import pytest
import tablestore

IGNORE = tablestore.Condition("IGNORE")
EXIST = tablestore.Condition("EXPECT_EXIST")
NOT_EXIST = tablestore.Condition("EXPECT_NOT_EXIST")


def key(p="a", n=1):
    return [("p", p), ("n", n)]


def put(client, table, p="a", n=1, columns=(), condition=IGNORE, **options):
    return client.put_row(table, tablestore.Row(key(p, n), list(columns)), condition, **options)


def update(client, table, p="a", n=1, changes=None, condition=IGNORE, **options):
    return client.update_row(table, tablestore.Row(key(p, n), changes), condition, **options)


def get(client, table, p="a", n=1, **options):
    """The row, or None."""
    return client.get_row(table, key(p, n), **options)[1]


def cells(row):
    """{name: value} of the newest versions."""
    found = {}
    for name, value, _ in row.attribute_columns:
        found.setdefault(name, value)
    return found


def read(client, table, p="a", n=1, **options):
    """{name: value}, or None for no row."""
    row = get(client, table, p, n, **options)
    return None if row is None else cells(row)


def refused(code, message=None, status=None):
    """Expects a service error. `message` is the exact text, or a test of it."""

    class Checked:
        def __enter__(self):
            self.raises = pytest.raises(tablestore.OTSServiceError)
            self.info = self.raises.__enter__()
            return self

        def __exit__(self, *exception):
            caught = self.raises.__exit__(*exception)
            error = self.info.value
            assert error.get_error_code() == code, str(error)
            if callable(message):
                assert message(error.get_error_message()), str(error)
            elif message is not None:
                assert error.get_error_message() == message
            if status is not None:
                assert error.get_http_status() == status
            assert error.get_request_id()
            return caught

    return Checked()


def invalid(message=None):
    return refused("OTSParameterInvalid", message, 400)


CHECK_FAILED = ("OTSConditionCheckFail", "Condition check failed.", 403)
