"""One region, a table that must stay as it is, and others that cases may write."""

import cluster
import pytest
import raw
import wire

KEY = [("p", 2), ("n", 1)]


class Context:
    """Makes signed requests and spoils them as asked."""

    def __init__(self, region):
        self.region, self.endpoint = region, region.endpoint
        self.told = region.cluster.credentials

    def request(self, operation, body, *, path=None, sign_path=None, sign=None, date=None,
                extra=None, without=(), replace=None, change=None, twice=None, both=False,
                send_body=None, lines=(), method="POST", length=None, version="HTTP/1.1"):
        """The bytes of a request that is signed first and changed afterwards."""
        given = dict(sign or {})
        signer = wire.Credentials(
            given.pop("instance", self.told.instance), given.pop("key_id", self.told.key_id),
            given.pop("secret", self.told.secret),
        )
        signed_path = sign_path or path or "/" + operation
        headers = signer.headers(signed_path, body, date=date, extra=extra, **given)
        if both:
            secret = "another" if both == "other" else signer.secret
            headers["x-ots-signature"] = wire.sign_v2(signed_path, headers, secret)
        for name, value in (replace or {}).items():
            headers[name] = value
        for name, function in (change or {}).items():
            headers[name] = function(headers[name])
        more = [f"{name}: {value if value is not None else headers[name]}"
                for name, value in (twice or {}).items()]
        for name in without:
            del headers[name]
        sent = body if send_body is None else send_body
        return raw.request(path or "/" + operation, headers, sent, method, length, version,
                           [*more, *lines])

    def send(self, data, **options):
        return raw.send(self.endpoint, data, **options)


def filled(client):
    """What must not change: the names of all tables, and every cell of one."""
    return client.list_table(), list(client.scan("t", ["p", "n"], 10))


@pytest.fixture(scope="session")
def region():
    with cluster.Cluster(regions=1) as running:
        yield running.regions[0]


@pytest.fixture(scope="session")
def context(region):
    client = region.client()
    for name in ("t", "scratch", "small"):
        client.create_table(name, KEY)
    for number in range(20):
        client.put_row("t", [("p", "a"), ("n", number)], [("v", number), ("s", "text")])
    client.close()
    return Context(region)


@pytest.fixture(scope="session")
def before(region, context):
    client = region.client()
    found = filled(client)
    client.close()
    return found


@pytest.fixture
def unharmed(region, context, before):
    """Checks after a test: it lives, its memory is bounded, nothing has changed."""
    # Request memory is at most three bodies; twelve leave room for several requests at once.
    bound = cluster.resident_bytes(region.pid) + 64 * 1024 * 1024
    pid = region.pid
    yield
    assert cluster.alive(pid), region.cluster.log_tail()
    client = region.client()
    assert filled(client) == before
    client.close()
    assert cluster.resident_bytes(pid) < max(bound, 256 * 1024 * 1024)
