"""One region for the whole suite, and the official SDK, unmodified, in front of it.

ISTHMUS_ENDPOINT, ISTHMUS_INSTANCE, ISTHMUS_ACCESS_KEY_ID and ISTHMUS_ACCESS_KEY_SECRET name a
server that already runs; without them the suite starts `isthmus up --regions 1` of its own.

DISTRIBUTED=1 starts three regions instead and divides each table that a test makes into partitions
that are spread over them, so that most of what is asked is done in another region.
"""

import contextlib
import itertools
import os
import types

import cluster
import pytest
import tablestore
import wire
from tablestore.retry import RetryPolicy, RetryUtil


class FewRetries(RetryPolicy):
    """Three quick tries: the SDK's own policy would hide a busy server for a minute."""

    def should_retry(self, retry_times, exception, api_name):
        return retry_times < 3 and RetryUtil.should_retry_no_matter_which_api(exception)

    def get_retry_delay(self, retry_times, exception, api_name):
        return 0.05


@contextlib.contextmanager
def distributing(running):
    """Each table that is made is distributed."""
    create = tablestore.OTSClient.create_table

    def create_distributed(client, meta, *arguments, **options):
        answer = create(client, meta, *arguments, **options)
        # The names of partitions are longer, so that the longest name is for other tables.
        if len(meta.table_name) <= 240:
            running.run("distribute", meta.table_name, "--by", "hash", "--partitions", 5,
                        "--replicas", 1)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tablestore.OTSClient, "create_table", create_distributed)
        yield


@pytest.fixture(scope="session")
def server():
    """endpoint and credentials of the region under test."""
    names = ("ENDPOINT", "INSTANCE", "ACCESS_KEY_ID", "ACCESS_KEY_SECRET")
    given = [os.environ.get("ISTHMUS_" + name) for name in names]
    if given[0]:
        yield types.SimpleNamespace(
            endpoint=given[0], instance=given[1], key_id=given[2], secret=given[3]
        )
        return
    is_distributed = os.environ.get("DISTRIBUTED") == "1"
    regions = 3 if is_distributed else 1
    with contextlib.ExitStack() as ends:
        arguments = ["--tables-max", "64"]
        running = ends.enter_context(cluster.Cluster(regions=regions, arguments=arguments))
        if is_distributed:
            ends.enter_context(distributing(running))
        told = running.told
        yield types.SimpleNamespace(
            endpoint=running.regions[0].endpoint,
            instance=told["instance"],
            key_id=told["access_key_id"],
            secret=told["access_key_secret"],
        )


@pytest.fixture(scope="session")
def make_client(server):
    """Makes an SDK client; keyword arguments replace what the server told."""

    def make(**changes):
        given = {
            "end_point": server.endpoint,
            "access_key_id": server.key_id,
            "access_key_secret": server.secret,
            "instance_name": server.instance,
            "retry_policy": FewRetries(),
            "socket_timeout": 20,
        }
        given.update(changes)
        return tablestore.OTSClient(**given)

    return make


@pytest.fixture(scope="session")
def client(make_client):
    return make_client()


@pytest.fixture(scope="session")
def plain(server):
    """The hand-written client, for what this SDK has no call for."""
    credentials = wire.Credentials(server.instance, server.key_id, server.secret)
    found = wire.Client(server.endpoint, credentials)
    yield found
    found.close()


_NUMBERS = itertools.count(1)
KEY = [("p", "STRING"), ("n", "INTEGER")]


@pytest.fixture
def make_table(client):
    """Makes tables with names of their own and deletes them after the test."""
    made = []

    def make(key=None, defined=None, **options):
        name = f"t{os.getpid()}_{next(_NUMBERS)}"
        client.create_table(
            tablestore.TableMeta(name, key or KEY, defined),
            tablestore.TableOptions(**options),
            tablestore.ReservedThroughput(tablestore.CapacityUnit(0, 0)),
        )
        made.append(name)
        return name

    yield make
    for name in made:
        with contextlib.suppress(tablestore.OTSServiceError):
            client.delete_table(name)


@pytest.fixture
def table(make_table):
    """A table with the key p STRING, n INTEGER."""
    return make_table()


@pytest.fixture
def versions_table(make_table):
    """The same, with five versions."""
    return make_table(max_version=5)
