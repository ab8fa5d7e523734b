"""Who may call: signatures V2 and V4, credentials, dates; and the answers' own signatures.

The SDK checks the MD5, the date and the signature of every answer, so each passing test of the
suite shows those too.
"""

import asyncio
import datetime

import pytest
import tablestore
from steps import key, put, read, refused


def test_signature_v4_is_accepted_for_any_region_name(make_client, client, table):
    newer = make_client(region="cn-hangzhou")
    put(newer, table, columns=[("v", "四")])
    assert read(newer, table) == {"v": "四"}
    assert read(client, table) == {"v": "四"}
    with refused("OTSObjectNotExist", status=404):
        newer.describe_table("nothere")


def test_a_sign_date_of_yesterday_is_accepted(make_client, table):
    today = datetime.datetime.now(datetime.timezone.utc)
    yesterday = (today - datetime.timedelta(days=1)).strftime("%Y%m%d")
    assert table in make_client(region="r1", sign_date=yesterday).list_table()


def test_a_sign_date_long_ago_is_refused(make_client):
    with refused("OTSAuthFailed", status=403):
        make_client(region="r1", sign_date="20200101").list_table()


@pytest.mark.parametrize("region", [None, "r1"])
def test_a_wrong_secret_is_refused(make_client, region):
    with refused("OTSAuthFailed", "Signature mismatch.", 403):
        make_client(access_key_secret="wrong", region=region).list_table()


@pytest.mark.parametrize("region", [None, "r1"])
def test_an_unknown_access_key_is_refused(make_client, region):
    with refused("OTSAuthFailed", "The AccessKeyID does not exist.", 403):
        make_client(access_key_id="nobody", region=region).list_table()


def test_another_instance_is_refused(make_client):
    with refused("OTSAuthFailed", "The instance is not found.", 403):
        make_client(instance_name="elsewhere").list_table()


@pytest.mark.parametrize("region", [None, "r1"])
def test_a_token_that_was_never_given_is_refused(make_client, region):
    with refused("OTSAuthFailed", status=403):
        make_client(sts_token="forged", region=region).list_table()


def test_a_refused_caller_changes_nothing(make_client, client, table):
    with refused("OTSAuthFailed", status=403):
        put(make_client(access_key_secret="wrong"), table, columns=[("v", 1)])
    assert read(client, table) is None


def test_headers_a_user_adds_are_signed_and_ignored(make_client, table):
    extra = {"x-ots-request-tag": "nightly", "x-ots-request-priority": "3"}
    assert table in make_client(extra_headers=extra).list_table()


def test_the_asynchronous_client_does_the_same(server, table):
    async def work():
        client = tablestore.AsyncOTSClient(
            server.endpoint, server.key_id, server.secret, server.instance
        )
        async with client:
            row = tablestore.Row(key(), [("v", 1)])
            await client.put_row(table, row, tablestore.Condition("IGNORE"))
            _, found, _ = await client.get_row(table, key())
            return found

    assert asyncio.run(asyncio.wait_for(work(), 30)).attribute_columns[0][1] == 1


def test_the_pure_python_codec_agrees_with_the_native_one(make_client, client, table):
    put(client, table, columns=[("a", "x"), ("b", 1.5), ("c", bytearray(b"z")), ("d", True)])
    slow = make_client(enable_native=False)
    assert client.get_row(table, key())[1].attribute_columns == \
        slow.get_row(table, key())[1].attribute_columns
