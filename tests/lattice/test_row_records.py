"""What a node knows at once when it starts again, from its own disk and before anybody has told it anything."""

from __future__ import annotations

import pytest

from lattice import canonical
from lattice.config import Config
from lattice.errors import MalformedError
from lattice.row_records import ROW_TABLE, ROWS_PER_SAVE_MAX, restored_row
from lattice.types import SECOND, Level, Micros
from tests.lattice.cluster import EPOCH, Cluster, cut


def settled(count: int = 4, **options: object) -> Cluster:
    cluster = Cluster(count, **options)  # type: ignore[arg-type]
    cluster.introduce_all()
    cluster.run(3 * SECOND)
    for index in range(count):
        cluster.observe(index, fra=Level.DOWN)
    cluster.run(10 * SECOND)
    return cluster


def alone_again(cluster: Cluster, index: int = 0) -> None:
    """Restart a node that hears nobody."""
    cluster.crash(index)
    cluster.judge = cut(([index], [other for other in range(len(cluster.engines)) if other != index]))
    cluster.restart(index)


def test_members_rows_and_verdicts_are_there_before_anybody_speaks() -> None:
    cluster = settled()
    assert {key for table, key in cluster.disks[0] if table == ROW_TABLE} == {e.node for e in cluster.engines[1:]}
    alone_again(cluster)
    view = cluster.engines[0].view()
    assert {member.site for member in view.members} == {f"site-{index}" for index in range(4)}
    assert [(region.region, region.verdict) for region in view.regions] == [("fra", Level.DOWN)]
    assert {witness.site for witness in view.regions[0].witnesses} == {"site-1", "site-2", "site-3"}, (
        "its own it forgot"
    )


def test_a_lease_goes_on_running_while_the_node_is_down() -> None:
    cluster = settled()
    cluster.crash(0)
    cluster.run(Config().row_refresh_us * Config().row_lease_refreshes + SECOND)
    alone_again(cluster)
    assert cluster.engines[0].view().regions == ()
    assert cluster.engines[0].counters()["rows expired"] == 3
    cluster.run(5 * SECOND)
    assert not [key for table, key in cluster.disks[0] if table == ROW_TABLE], "and its record goes"


def test_what_is_older_than_the_disk_is_not_news_after_a_restart() -> None:
    """Stale state is no way back in: the versions that were seen are seen again."""
    cluster = settled()
    before = {e.node: e._health.table.order_of(e.node) for e in cluster.engines}
    alone_again(cluster)
    table = cluster.engines[0]._health.table
    assert all(table.order_of(e.node) == before[e.node] for e in cluster.engines[1:])


def test_a_damaged_record_is_counted_and_the_others_are_taken() -> None:
    cluster = settled()
    one, two = cluster.engines[1].node, cluster.engines[2].node
    row = cluster.disks[0][ROW_TABLE, one]
    cluster.disks[0][ROW_TABLE, one] = row[:-1] + bytes([row[-1] ^ 1])
    cluster.disks[0][ROW_TABLE, two] = b"\x93"
    alone_again(cluster)
    assert {member.site for member in cluster.engines[0].view().members} == {"site-0", "site-3"}
    assert cluster.engines[0].counters()["restore: bad row signature"] == 1
    assert cluster.engines[0].counters()["restore: not msgpack"] == 1


def test_a_clock_that_was_set_back_makes_a_row_no_younger_than_new() -> None:
    value = canonical.pack((EPOCH, b"row"))
    assert restored_row(value, Micros(EPOCH + 5)) == (b"row", 5)
    assert restored_row(value, Micros(EPOCH - 5)) == (b"row", 0)
    for bad in (b"", canonical.pack((EPOCH,)), canonical.pack((-1, b"")), canonical.pack((EPOCH, "row")), bytes(99)):
        with pytest.raises(MalformedError):
            restored_row(bad, EPOCH)


def test_rows_that_change_all_the_time_are_written_once_a_while() -> None:
    cluster = settled(2)
    writes = 0
    keep = cluster._perform

    def perform(index: int, effect: object) -> object:
        nonlocal writes
        writes += index == 0 and getattr(effect, "table", "") == ROW_TABLE
        return keep(index, effect)  # type: ignore[arg-type]

    cluster._perform = perform  # type: ignore[method-assign,assignment]
    for turn in range(60):
        cluster.observe(1, fra=Level.DOWN if turn % 2 else Level.FAILING)
        cluster.run(SECOND // 2)
    assert 5 <= writes <= 11, "every three seconds at most, of thirty"
    assert ROWS_PER_SAVE_MAX >= 100


def test_a_simulation_may_do_without() -> None:
    cluster = settled(config=Config(rows_kept=False))
    assert not [key for table, key in cluster.disks[0] if table == ROW_TABLE]
