"""IA17: the port for other regions talks to members only."""

import contextlib
import pathlib
import shutil
import socket
import ssl
import subprocess
import time
import urllib.parse

import cluster
import pytest

OPENSSL = shutil.which("openssl")


@pytest.fixture(scope="module")
def regions():
    with cluster.Cluster(regions=2) as running:
        yield running


def peer_address(region):
    where = urllib.parse.urlsplit(region.endpoint)
    return where.hostname, where.port + 2


# An HTTP/2 client's first words: the preface and empty settings.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")


def talk(region, files=None, data=HELLO):
    """What the port sends to a TLS client after its handshake; nothing where it refuses."""
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    settings.check_hostname, settings.verify_mode = False, ssl.CERT_NONE
    settings.set_alpn_protocols(["h2"])
    if files is not None:
        settings.load_cert_chain(*files)
    with contextlib.suppress(OSError), socket.create_connection(peer_address(region), 5) as plain:
        with settings.wrap_socket(plain) as connection:
            connection.settimeout(5)
            connection.sendall(data)
            return connection.recv(4096)
    return b""


def authority(folder, name):
    """A certificate that signs itself, and its key."""
    files = (str(folder / f"{name}.pem"), str(folder / f"{name}.key"))
    subprocess.run(
        [OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
         "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True, timeout=30,
    )
    return files


def own_files(running, name):
    folder = pathlib.Path(running.data) / "tls"
    return str(folder / f"{name}.pem"), str(folder / f"{name}.key")


def test_a_member_is_spoken_to(regions):
    # The control of the tests below: with a member's certificate the same bytes get an answer.
    assert talk(regions.regions[0], own_files(regions, "r2")) != b""


def test_no_certificate_is_refused(regions):
    assert talk(regions.regions[0]) == b""


@pytest.mark.skipif(OPENSSL is None, reason="needs openssl")
@pytest.mark.parametrize("name", ["r2", "stranger"])
def test_a_certificate_of_another_authority_is_refused(regions, tmp_path, name):
    assert talk(regions.regions[0], authority(tmp_path, name)) == b""


def test_plain_text_on_the_tls_port_is_closed(regions):
    with socket.create_connection(peer_address(regions.regions[0]), 5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.settimeout(20)
        limit, data = time.monotonic() + 20, b"-"
        while data and time.monotonic() < limit:
            with contextlib.suppress(ConnectionResetError):
                data = connection.recv(4096)
                assert not data.startswith(b"HTTP/1.1 2")
                continue
            break
        assert time.monotonic() < limit


def test_the_regions_live(regions):
    for region in regions.regions:
        assert region.serving()
