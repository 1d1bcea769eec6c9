"""Bad requests and many requests, over real connections."""

import collections
import concurrent.futures
import dataclasses
import logging
import os
import time

import pytest
import rough
import served
from rough import exchange, in_form, malformed, post

MARK = b"mark\r\n\x1b[31mforged"


def answers(address, count):
    """Of so many malformed requests, the statuses by what is wrong."""
    found = collections.defaultdict(collections.Counter)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        cases = [malformed(number) for number in range(count)]
        for (name, _), status in zip(
            cases, pool.map(lambda case: exchange(address, case[1]), cases), strict=True
        ):
            found[name][status] += 1
    return found


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_malformed_requests_are_refused_and_the_server_goes_on(count, caplog, capfd):
    with rough.serving(served.classifier()) as address:
        open_files = len(os.listdir("/proc/self/fd"))
        found = answers(address, count)
        assert all(400 <= x < 500 for statuses in found.values() for x in statuses), found
        assert sum(x.total() for x in found.values()) == count
        assert exchange(address, post(in_form(served.encoded()), rough.FORM)) == 200
        assert len(os.listdir("/proc/self/fd")) <= open_files + 2
    assert not caplog.records and not any(capfd.readouterr())


def test_nothing_of_a_request_is_logged(caplog, capfd):
    caplog.set_level(logging.DEBUG, "uvicorn")
    with rough.serving(served.classifier()) as address:
        exchange(address, post(in_form(MARK, b"mark.png"), rough.FORM))
        exchange(address, post(b"", line=b"POST /mark HTTP/1.1"))
        exchange(address, post(MARK))
        exchange(address, b"mark\r\n\r\n")
    assert "mark" not in caplog.text + "".join(capfd.readouterr())


def test_a_body_that_does_not_come_is_not_waited_for():
    hasty = dataclasses.replace(rough.LIMITS, seconds=0.5)
    with rough.serving(served.classifier(), hasty) as address:
        began = time.monotonic()
        assert exchange(address, post(b"{", length=b"100")) == 408
        assert time.monotonic() - began < 10


def test_clients_at_the_same_time_lose_no_request():
    with rough.serving(served.classifier()) as address:
        found = rough.load(address, clients=8, seconds=0.5)
    assert found.expected == found.statuses and found.statuses[200]
