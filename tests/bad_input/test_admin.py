"""The administration port: what is open, and that a signature is good for one request only."""

import urllib.parse

import pytest
import raw

STATUS = "/v1/status"


def ask(context, signed, method="GET", target=STATUS, body=b""):
    """Sends a request whose signature is over `signed`."""
    where = urllib.parse.urlsplit(context.region.admin)
    headers = context.told.headers(signed, body)
    data = raw.request(target, headers, body, method)
    return raw.send(f"http://{where.hostname}:{where.port}", data).status


def test_a_request_signed_for_the_administration_is_served(context, unharmed):
    assert ask(context, f"GET {STATUS}") == 200
    assert ask(context, f"GET {STATUS}?x=1", target=f"{STATUS}?x=1") == 200


@pytest.mark.parametrize("signed", [
    STATUS, f"POST {STATUS}", f"HEAD {STATUS}", f"GET  {STATUS}", f"get {STATUS}",
    f"GET {STATUS}?x=1", "GET /v1/other", "GET ", f"GET /{STATUS}",
])
def test_a_signature_for_another_request_is_refused(context, unharmed, signed):
    assert ask(context, signed) == 403


def test_a_query_that_was_added_is_refused(context, unharmed):
    assert ask(context, f"GET {STATUS}", target=f"{STATUS}?x=1") == 403


def test_only_health_is_open(context, unharmed):
    where = urllib.parse.urlsplit(context.region.admin)
    for method, target, expected in (
            ("GET", "/v1/health", {200}), ("GET", STATUS, {400, 403}),
            ("GET", "/v1/", {400, 403, 404}), ("GET", "/metrics", {400, 403, 404}),
            ("POST", STATUS, {400, 403, 405})):
        data = raw.request(target, {}, method=method)
        found = raw.send(f"http://{where.hostname}:{where.port}", data).status
        assert found in expected, (method, target, found)


@pytest.mark.parametrize("value", [
    "Bearer", "Bearer ", "Bearer x", "bearer x", "Basic eDp4", "Bearer " + "a" * 40000, "Bearer \xff",
])
def test_a_wrong_token_opens_neither_the_metrics_nor_anything_else(context, unharmed, value):
    where = urllib.parse.urlsplit(context.region.admin)
    for target in ("/metrics", STATUS, "/v1/probes", "/v1/plans"):
        data = raw.request(target, {"Authorization": value}, method="GET")
        found = raw.send(f"http://{where.hostname}:{where.port}", data).status
        assert found in (400, 403, 405, 431), (target, found)


def test_a_request_of_the_public_api_means_nothing_here_nor_the_other_way(context, unharmed):
    assert ask(context, "/GetRow", method="POST", target="/GetRow") in (403, 404)
    data = raw.request("/GetRow", context.told.headers("POST /GetRow", b""))
    assert context.send(data).status == 403
