"""Every bad input gets its stated answer, costs little, and changes nothing."""

import cases
import pytest
import raw


@pytest.mark.parametrize("case", cases.CASES, ids=str)
def test_bad_input(context, unharmed, case):
    outcome = context.send(case.data(context), wait_close=case.closes, answers=case.answers)
    assert outcome.status in case.status, describe(outcome)
    if case.closes:
        assert outcome.closed, describe(outcome)
    if outcome.answers and 400 <= outcome.status < 600:
        check_error(case, outcome.answers[-1])


def check_error(case, answer):
    # What the HTTP library refuses before there is a request may have no body.
    if not answer.body:
        assert case.code is None, f"no body where {case.code} is expected"
        return
    code, message = answer.error()
    assert code.startswith("OTS")
    assert answer.headers.get("x-ots-requestid"), answer.headers
    if case.code is not None:
        assert code in case.code, (code, message)
    if case.message is not None:
        assert message == case.message


def describe(outcome):
    shown = [(one.status, one.body[:200]) for one in outcome.answers]
    return f"answers {shown}, closed {outcome.closed}"


def test_ids_are_unique():
    names = [case.name for case in cases.CASES]
    assert len(names) == len(set(names))
    assert raw.split(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy")[1] == b"y"
