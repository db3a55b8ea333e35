"""Dates: the three forms that HTTP has, and no other."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cache.http_date import read_http_date
from tests.router.cache.heads import NOW_MS

FORMS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y")


@given(
    st.datetimes(datetime(1978, 1, 1), datetime(2076, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 -- st adds UTC
    st.sampled_from(FORMS),
)
def test_every_form_reads_back_to_the_second(moment: datetime, form: str) -> None:
    moment = moment.replace(microsecond=0)
    assert read_http_date(moment.strftime(form).encode(), NOW_MS) == int(moment.timestamp())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "Fri, 15 Jan 2027 08:00:00 UTC",
        "Fri, 15 Jan 2027 08:00:00 +0000",
        "Fri 15 Jan 2027 08:00:00 GMT",
        "fri, 15 jan 2027 08:00:00 gmt",
        "Fri, 15 Jan 27 08:00:00 GMT",
        "Fri, 30 Feb 2027 08:00:00 GMT",
        "Fri, 15 Jan 2027 24:00:00 GMT",
        "Fri, 15 Jan 2027 08:60:00 GMT",
        "Fri, 15 Jan 0000 08:00:00 GMT",
        "Fri, 15 Jan 2027 08:00:00 GMT ",
        "2027-01-15T08:00:00Z",
    ],
)
def test_anything_else_is_no_date(text: str) -> None:
    assert read_http_date(text.encode(), NOW_MS) is None


def test_a_two_digit_year_is_at_most_fifty_years_ahead() -> None:
    ahead = read_http_date(b"Friday, 15-Jan-77 08:00:00 GMT", NOW_MS)
    past = read_http_date(b"Sunday, 15-Jan-78 08:00:00 GMT", NOW_MS)
    assert ahead is not None
    assert ahead > NOW_MS // 1_000
    assert past is not None
    assert past < NOW_MS // 1_000
