"""Certificates and their authority are replaced while regions write, without a restart."""

import json
import pathlib
import socket
import ssl
import urllib.parse

import cluster
import ledger
import pytest
from authority import OPENSSL, Authority, put

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs openssl")


# An HTTP/2 client's first words: the preface and empty settings.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")


def events(region, kind):
    done = region.cluster.run("events", "--kind", kind, "--json", config=region.config)
    return [one for one in json.loads(done.stdout)["events"] if one["region"] == region.name]


def await_events(region, kind, count):
    cluster.wait_until(
        lambda: len(events(region, kind)) >= count, f"{count} {kind} in {region.name}", 30, 0.3)


def shown(region, files):
    """The certificate that the peer port shows, to a client with these files; None: it refuses."""
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    settings.check_hostname, settings.verify_mode = False, ssl.CERT_NONE
    settings.set_alpn_protocols(["h2"])
    settings.load_cert_chain(*files)
    where = urllib.parse.urlsplit(region.endpoint)
    try:
        with socket.create_connection((where.hostname, where.port + 2), 5) as plain, \
                settings.wrap_socket(plain) as connection:
            connection.settimeout(5)
            connection.sendall(HELLO)
            if not connection.recv(100):
                return None
            return connection.getpeercert(binary_form=True)
    except OSError:
        return None


def connected_since(running):
    """{(region, other): since when} of all streams; empty where one is not there."""
    found = {}
    for status in running.statuses():
        for other in status["regions"]:
            if other["state"] == "unreachable":
                return {}
            if other["state"] == "connected":
                found[status["region"], other["name"]] = other["since_ms"]
    return found


def test_certificates_and_authority_are_replaced_under_load(three, folder):
    tls = pathlib.Path(three.data) / "tls"
    old = folder / "old.pem", folder / "old.key"
    for path, name in zip(old, ("r2.pem", "r2.key"), strict=True):
        put(path, (tls / name).read_bytes())
    client = three.regions[0].client()
    client.create_table("kept", ledger.KEY)
    client.close()
    three.make_global("kept", "peer-to-peer")
    writers = [ledger.Writer(region, "kept", region.name) for region in three.regions]
    for writer in writers:
        writer.start()
    first = shown(three.regions[0], old)
    assert first is not None
    before = cluster.wait_until(lambda: connected_since(three), "all streams are open")

    new = Authority(folder, "new-authority")
    put(tls / "authority.pem", (tls / "authority.pem").read_bytes() + new.certificate)
    for region in three.regions:
        await_events(region, "certificates-renewed", 1)
    for region in three.regions:
        certificate, key = new.sign(region.name)
        put(tls / f"{region.name}.pem", certificate)
        put(tls / f"{region.name}.key", key)
    for region in three.regions:
        await_events(region, "certificates-renewed", 2)
    assert shown(three.regions[0], old) not in (None, first)
    put(tls / "authority.pem", new.certificate)
    for region in three.regions:
        await_events(region, "certificates-renewed", 3)
    assert shown(three.regions[0], old) is None, "the old authority is believed no more"
    assert shown(three.regions[0], (tls / "r2.pem", tls / "r2.key")) is not None

    def all_anew():
        now = connected_since(three)
        return now and all(now[pair] > since for pair, since in before.items())

    cluster.wait_until(all_anew, "every connection is made anew", 30)
    ledger.finish(three, "kept", writers)


@pytest.fixture(scope="module")
def two():
    with cluster.Cluster(regions=2) as running:
        yield running


def test_bad_files_are_reported_and_the_old_stay_in_use(two, tmp_path):
    tls = pathlib.Path(two.data) / "tls"
    region = two.regions[0]
    good = {name: (tls / name).read_bytes() for name in ("r1.pem", "r1.key", "authority.pem")}
    files = tls / "r2.pem", tls / "r2.key"
    before = shown(region, files)
    other = Authority(tmp_path, "other-authority")
    stranger, expired = other.sign("r1"), other.sign("r1", days=-1)
    both = good["authority.pem"] + other.certificate
    cases = [
        ({"r1.key": stranger[1]}, "is not the key of the certificate"),
        ({"r1.pem": stranger[0], "r1.key": stranger[1]}, "would not be believed"),
        ({"r1.pem": expired[0], "r1.key": expired[1], "authority.pem": both},
         "would not be believed"),
        ({"authority.pem": b""}, "holds no certificate"),
        (dict(zip(("r1.pem", "r1.key"), other.sign("r9"), strict=True)) | {"authority.pem": both},
         "does not bear the name r1"),
    ]
    for case, (changed, reason) in enumerate(cases, 1):
        for name, data in changed.items():
            put(tls / name, data)
        await_events(region, "certificates-refused", case)
        assert reason in events(region, "certificates-refused")[0]["text"]
        assert shown(region, files) == before, reason
        for name, data in good.items():
            put(tls / name, data)
    client = region.client()
    client.create_table("still", ledger.KEY)
    client.close()
    two.make_global("still", "primary-secondary")
