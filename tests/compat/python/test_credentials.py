"""Temporary, disabled and expired access keys: a region of its own with such keys in its file."""

import pathlib

import cluster
import pytest
import tablestore
from steps import refused

KEYS = """
[[credentials]]
access_key_id = "temporary"
access_key_secret = "temporary-secret-0123456789"
security_token = "the-token/of+the=key"

[[credentials]]
access_key_id = "disabled"
access_key_secret = "disabled-secret-0123456789"
disabled = true

[[credentials]]
access_key_id = "expired"
access_key_secret = "expired-secret-0123456789"
security_token = "token-of-the-expired"
expires = "2020-01-31T12:00:00Z"
"""


@pytest.fixture(scope="module")
def region():
    with cluster.Cluster(regions=1) as running:
        only = running.regions[0]
        only.kill()
        with pathlib.Path(only.config).open("a", encoding="utf-8") as config:
            config.write(KEYS)
        only.start()
        yield only


@pytest.fixture(params=[None, "r1"], ids=["v2", "v4"])
def call(request, region):
    """Lists tables with the given key and token."""

    def make(key, token=None, secret=None):
        return tablestore.OTSClient(
            region.endpoint, key, secret or f"{key}-secret-0123456789", region.cluster.instance,
            region=request.param, sts_token=token, socket_timeout=20,
        ).list_table()

    return make


def test_a_temporary_key_works_with_its_token(call):
    assert list(call("temporary", "the-token/of+the=key")) == []


@pytest.mark.parametrize("token", [None, "the-token/of+the=kex", "the-token", "x" * 4096,
                                   "token-of-the-expired"])
def test_a_temporary_key_without_its_token_is_refused(call, token):
    with refused("OTSAuthFailed", status=403):
        call("temporary", token)


def test_a_temporary_key_with_a_wrong_secret_is_refused(call):
    with refused("OTSAuthFailed", "Signature mismatch.", 403):
        call("temporary", "the-token/of+the=key", "wrong-secret-0123456789")


def test_a_disabled_key_is_refused(call):
    with refused("OTSAuthFailed", "The AccessKeyID is disabled.", 403):
        call("disabled")


def test_an_expired_key_is_refused(call):
    with refused("OTSAuthFailed", status=403):
        call("expired", "token-of-the-expired")
