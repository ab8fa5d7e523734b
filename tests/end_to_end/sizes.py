"""How large the runs are.

FLIGHTS_ROWS, CRASHES, POWER_CUTS, LOAD_ROWS, INGEST_ROWS, RESTART_ROWS, EMPTY_TABLES and
VERIFY_ROWS make a quick run; SEED repeats one; SOAK=1 adds the long tests, OVERWRITES sizes them.
"""

import os


def number(name, default):
    """A size from the environment."""
    return int(os.environ.get(name, default))
