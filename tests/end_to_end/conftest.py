"""Where the suite writes, and the cluster that most tests use."""

import os
import pathlib
import shutil
import tempfile

import cluster
import pytest


@pytest.fixture
def folder():
    """A folder on a disk, not in memory: syncs must cost what they cost."""
    place = pathlib.Path(os.environ.get("ISTHMUS_TEST_DIR", cluster.ROOT / "target" / "end-to-end"))
    place.mkdir(parents=True, exist_ok=True)
    found = pathlib.Path(tempfile.mkdtemp(dir=place))
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture
def three(folder):
    """Three regions."""
    with cluster.Cluster(regions=3, folder=folder) as running:
        yield running
