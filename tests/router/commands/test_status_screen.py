from __future__ import annotations

import io

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from lattice.types import CellId, VersionId
from lattice.view import ForkView, LatticeView, QuarantineView
from router.commands.status_screen import age, console, decision_screen, status_screen
from router.control.answers import decision_body, view_body
from router.control.body import SteeringBody, ViewBody
from router.decision.decide import Request
from tests.router.control.fake_target import AMS, AUTHOR, FRA, FakeTarget


def shown(screen: object, width: int = 120) -> list[str]:
    plain = Console(width=width, file=io.StringIO(), highlight=False)
    plain.print(screen)
    written = plain.file
    assert isinstance(written, io.StringIO)
    return [line.rstrip() for line in written.getvalue().splitlines()]


@pytest.fixture
def view() -> ViewBody:
    return view_body(FakeTarget(), {})


def test_a_view_as_people_see_it(view: ViewBody) -> None:
    # Markup in what others sent is shown, not obeyed: see the message.
    assert shown(status_screen(view)) == [
        "site ams  node f7372a6a  members 2/2  cells 4  root abababab  requests 7  errors 0  retries 1",
        "the node's certificate expires on 2027-01-01 00:00 UTC",
        "ejected here: 127.1.0.2:9001 [::1]:9001",
        "",
        "Regions",
        "region  level    for   verdict  own      why      witnesses             answers",
        "ams     HEALTHY  1m    HEALTHY  HEALTHY  verdict                        5",
        "fra     DOWN     2.0s  DOWN     DOWN     verdict  ams:DOWN fra:FAILING  2",
        "",
        "Members",
        "site        node      address         state  incarnation  policy",
        "ams (this)  f7372a6a  127.0.0.1:7946  alive  1            default=5a5a5a5a",
        "fra         6ab5083d  127.0.0.1:7947  alive  1            default=5a5a5a5a",
        "",
        "Policies",
        "policy   version   author    published  in force  at sites  message",
        "default  5a5a5a5a  7df516a6  1m ago     1m ago    2/2       a first [bold]one[/]",
        "",
        "Events",
        "ago   what",
        "2.0s  region  fra is DOWN",
        "",
    ]


def test_a_region_that_is_well_and_kept_from_users_says_why(view: ViewBody) -> None:
    (fra,) = view.steering
    well = [replace(region, effective="HEALTHY") for region in view.regions]

    def said(steering: SteeringBody) -> str:
        return shown(status_screen(replace(view, regions=well, steering=[steering])))[8]

    assert said(fra) == "fra: still taken for DOWN here, for 1m at least (damping, cooldown, probation)"
    returning = replace(fra, planned="HEALTHY", returns_ms=None, away_ppm=123_400)
    assert said(returning) == "fra: 12.34% of its users are yet to go back"
    assert said(replace(returning, away_ppm=0)) == ""


def test_keys_that_said_two_things_are_shown_with_what_proves_it() -> None:
    class Watchful(FakeTarget):
        def view(self) -> LatticeView:
            caught = QuarantineView(
                FRA, "fra", (3, 7), spent=False, evidence=(CellId(b"\x11" * 16), CellId(b"\x22" * 16))
            )
            spent = QuarantineView(AMS, "ams", (1, 2, 3), spent=True, evidence=(CellId(b"\x33" * 16),))
            fork = ForkView(AUTHOR, 12, (b"\xaa" * 16, b"\xbb" * 16))
            return replace(super().view(), quarantined=(caught, spent), forks=(fork,))

    body = view_body(Watchful(), {})
    assert body.quarantined[0].evidence == ["11" * 16, "22" * 16]
    assert (body.forked[0].author, body.forked[0].seq) == (AUTHOR.hex(), 12)
    lines = shown(status_screen(body))
    start = lines.index("Caught saying two things")
    assert [line.split("  ")[0] for line in lines[start + 2 : start + 5]] == [
        "node 6ab5083d",
        "node f7372a6a",
        "author 7df516a6",
    ]
    assert [line.split()[-1] for line in lines[start + 2 : start + 5]] == ["22222222", "33333333", "bbbbbbbb"]
    assert "its key never votes again" in lines[start + 3]


LOST = (
    "datagram rejected: unknown key", "row rejected: not granted", "inbox full: datagram dropped",
    "datagram dropped: source over its rate", "stream frames not sent: TooSlowError", "datagrams not read: OSError",
    "rumours over a writer's rate", "announcements beyond the limit", "discovery: too many endpoints",
    "store: writes failed", "restore: bad row signature", "sends without an address", "control_refused_host",
    "frames dropped: the disk is too slow", "claims over the rate", "mdns: unusable name", "seeds not resolved",
)  # fmt: skip
FINE = (
    "mdns: peers heard",
    "in Ping",
    "out Rumour",
    "bytes out",
    "rows known",
    "void ops dropped",
    "probe failed",
    "store: records written",
)


def test_what_was_refused_or_dropped_is_shown_by_reason(view: ViewBody) -> None:
    counters = {name: number for number, name in enumerate((*LOST, *FINE), 1)}
    lines = shown(status_screen(msgspec.structs.replace(view, counters=counters, revoked=["ab" * 16])))
    assert "revoked: abababab" in lines
    table = lines[lines.index("Refused and dropped") + 2 :]
    told = [line.rpartition("  ")[0].strip() for line in table[:12]]
    assert told == list(LOST[::-1][:12]), "the most frequent first"
    assert table[12] == f"and {len(LOST) - 12} more: --json has them"
    for name in LOST:
        assert "Refused and dropped" in shown(status_screen(msgspec.structs.replace(view, counters={name: 1})))
    for name in FINE:
        assert "Refused and dropped" not in shown(status_screen(msgspec.structs.replace(view, counters={name: 1})))


def test_a_node_that_knows_nothing_yet(view: ViewBody) -> None:
    empty = ViewBody(
        node="00", site="ams", now_ms=0, isolated=True, root="", cells=0, members=[], regions=[], policies=[],
        traffic=view.traffic, ejected=[], counters={}, events=[],
    )  # fmt: skip
    text = "\n".join(shown(status_screen(empty)))
    assert "ISOLATED" in text
    assert "No policy yet: edgelattice policy publish" in text


def test_a_decision_as_people_see_it() -> None:
    request = Request("127.0.0.1", "a", "/")
    decision = FakeTarget().decide(request)
    in_force = VersionId(b"\x5f" * 16), "canary 01020304"
    assert shown(decision_screen(decision_body(decision, request, in_force))) == [
        "region    ams:HEALTHY",
        "reason    secondary: fra DOWN",
        "version   5f5f5f5f, canary 01020304",
        "route     everything",
        "zone      none",
        "tier      secondary",
        "proposed  fra",
        "",
        "Attempts",
        "region  tier       level    endpoint",
        "ams     secondary  HEALTHY  127.1.0.1:9001",
    ]


@pytest.mark.parametrize(
    ("ago_ms", "text"),
    [(-5, "0.0s"), (0, "0.0s"), (1_249, "1.2s"), (59_999, "59s"), (60_000, "1m"), (7_300_000, "2h"), (2e8, "2d")],
)
def test_an_age_has_the_digits_that_matter(ago_ms: int, text: str) -> None:
    assert age(1_000_000_000 - int(ago_ms), 1_000_000_000) == text


def test_elsewhere_than_on_a_terminal_nothing_is_cut_or_coloured(
    capsys: pytest.CaptureFixture[str], view: ViewBody
) -> None:
    console().print(status_screen(view))
    written = capsys.readouterr().out
    assert "\x1b" not in written
    assert "a first [bold]one[/]" in written
