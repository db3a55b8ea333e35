"""What the lattice notifies, in words."""

from __future__ import annotations

import logging
import re

import pytest

from lattice.events import IdConflict
from lattice.types import SECOND, Micros
from router.journal import Journal
from router.lattice_news import CONFLICT_WARNED_US, LatticeNews, clock_warning
from tests.lattice.cluster import Cluster
from tests.lattice.test_engine_swim import settled


def test_a_key_in_two_places_is_named_by_its_site_and_warned_of_while_it_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster, now = settled(2), [Micros(SECOND)]
    journal = Journal(lambda: now[0])
    news = LatticeNews(journal, lambda: now[0], cluster.engines[0].view)
    assert news.warnings() == []
    for index, whose in enumerate(("this node", "site-1's node")):
        news.tell(IdConflict(cluster.engines[index].node, ("10.0.0.7", 7_946)))
        (text,) = [text for text in news.warnings() if whose in text]
        assert text.startswith(f"the key of {whose} (")
        assert "speaks from 10.0.0.7:7946 as well" in text
        assert (journal.events()[-1].kind, journal.events()[-1].text) == ("conflict", text)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    now[0] = Micros(now[0] + CONFLICT_WARNED_US - 1)
    assert len(news.warnings()) == 2
    now[0] = Micros(now[0] + 1)
    assert news.warnings() == []


def test_a_clock_is_complained_of_where_most_others_say_another_time() -> None:
    cluster = Cluster(5, skews_us={4: 600 * SECOND, 3: -90 * SECOND})
    cluster.introduce_all()
    cluster.run(20 * SECOND)
    told = [clock_warning(engine.clock_off_ms()) for engine in cluster.engines]
    assert told[:3] == [None] * 3
    assert re.match(r"this node's clock is (89|90|91) s behind most sites'", str(told[3]))
    assert re.match(r"this node's clock is (599|600|601) s ahead of most sites'", str(told[4]))


def test_two_sites_cannot_tell_whose_clock_is_wrong() -> None:
    cluster = Cluster(2, skews_us={1: 600 * SECOND})
    cluster.introduce_all()
    cluster.run(20 * SECOND)
    assert [engine.clock_off_ms() for engine in cluster.engines] == [0, 0]
