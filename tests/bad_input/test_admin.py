"""The administration port: what is open, and that a signature is good for one request only."""

import json
import re
import urllib.parse

import cluster
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


def routes():
    """(method, path) of everything that is described; a test beside the router sees to it that
    these are all routes there are."""
    described = json.loads((cluster.ROOT / "docs" / "openapi.json").read_text())["paths"]
    return sorted((method.upper(), re.sub(r"\{[^}]*\}", "any", path))
                  for path, operations in described.items() for method in operations
                  if method in ("get", "post", "put", "delete", "patch"))


@pytest.mark.parametrize(("method", "path"), routes())
def test_ia13_only_health_is_open(context, unharmed, method, path):
    """IA13: every route without credentials, and with ones that are none."""
    where = urllib.parse.urlsplit(context.region.admin)
    forged = context.told.headers(f"{method} {path}", b"")
    forged["x-ots-signature"] = "A" * 27 + "="
    for headers, expected in (({}, 400), (forged, 403)):
        data = raw.request(path, headers, method=method)
        outcome = raw.send(f"http://{where.hostname}:{where.port}", data)
        assert outcome.status == (200 if path == "/v1/health" else expected), (method, path)


def test_other_methods_and_paths_are_no_way_in(context, unharmed):
    where = urllib.parse.urlsplit(context.region.admin)
    for method, target, expected in (
            ("GET", "/v1/", 400), ("GET", "/", 400), ("GET", "/v1/nothing", 400),
            ("POST", "/v1/health", 405), ("POST", STATUS, 400), ("DELETE", STATUS, 400)):
        data = raw.request(target, {}, method=method)
        found = raw.send(f"http://{where.hostname}:{where.port}", data).status
        assert found == expected, (method, target, found)
    assert ask(context, "GET /v1/nothing", target="/v1/nothing") == 404
    assert ask(context, f"DELETE {STATUS}", "DELETE") == 405


@pytest.mark.parametrize("value", [
    "Bearer", "Bearer ", "Bearer x", "bearer x", "Basic eDp4", "Bearer " + "a" * 40000, "Bearer \xff",
])
def test_a_wrong_token_opens_neither_the_metrics_nor_anything_else(context, unharmed, value):
    where = urllib.parse.urlsplit(context.region.admin)
    for method, target in (("GET", "/metrics"), ("GET", STATUS), ("GET", "/v1/probes"),
                           ("POST", "/v1/plans")):
        data = raw.request(target, {"Authorization": value}, method=method)
        found = raw.send(f"http://{where.hostname}:{where.port}", data).status
        # Space at the end of a value is no part of it.
        is_token = target == "/metrics" and value.strip().startswith("Bearer ") and value.isascii()
        assert found == (403 if is_token else 400), (target, found)


def test_a_request_of_the_public_api_means_nothing_here_nor_the_other_way(context, unharmed):
    assert ask(context, "/GetRow", method="POST", target="/GetRow") == 403
    data = raw.request("/GetRow", context.told.headers("POST /GetRow", b""))
    assert context.send(data).status == 403
