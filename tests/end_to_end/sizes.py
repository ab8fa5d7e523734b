"""How large the runs are.

FLIGHTS_ROWS, CRASHES, POWER_CUTS, LOAD_ROWS, INGEST_ROWS, RESTART_ROWS, EMPTY_TABLES and
VERIFY_ROWS and DELETE_ROWS make a quick run, SCHEMA_CHANGES a long one; SEED repeats one; SOAK=1
adds the long tests, which OVERWRITES, DELETES, SOAK_SECONDS and SOAK_WRITES_PER_SECOND size.
"""

import os

import pytest

SOAK = pytest.mark.skipif(not os.environ.get("SOAK"), reason="long: cargo xtask soak")


def number(name, default):
    """A size from the environment."""
    return int(os.environ.get(name, default))
