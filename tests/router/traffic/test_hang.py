"""The hang rule on a virtual clock, and its laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.types import MILLISECOND, SECOND, Endpoint, Micros
from router.traffic.budget import WINDOW_US, Budget, Window
from router.traffic.hang import SAMPLES_MIN, UNAVAILABLE_MIN, WAITING_MIN, HangWatch, Latencies, Suspicion

A: Endpoint = ("10.0.0.1", 80)
B: Endpoint = ("10.0.0.2", 80)


class World:
    """A watch, and the time."""

    def __init__(self, latency_us: int = 2 * MILLISECOND) -> None:
        self.watch: HangWatch[str] = HangWatch()
        self.now = Micros(SECOND)
        for turn in range(SAMPLES_MIN):
            self.send(f"before {turn}")
            self.passes(latency_us)
            self.hear(f"before {turn}")

    def passes(self, us: int) -> None:
        self.now = Micros(self.now + us)

    def send(self, flight: str, endpoint: Endpoint = A, *, ahead_us: int = 0) -> None:
        self.watch.endpoint("fra", endpoint).sent(flight, Micros(self.now + ahead_us))

    def hear(self, flight: str, endpoint: Endpoint = A) -> None:
        self.watch.endpoint("fra", endpoint).heard(flight, self.now)

    def suspects(self) -> tuple[Suspicion[str], ...]:
        return self.watch.suspects(self.now)


def test_three_that_wait_without_a_byte_for_50_ms_make_a_region_suspect() -> None:
    world = World()
    for name in "abc":
        world.send(name)
    world.passes(50 * MILLISECOND - 1)
    assert world.suspects() == ()
    world.passes(1)
    assert world.suspects() == (Suspicion("fra", None, 50 * MILLISECOND, ("a", "b", "c")),)
    assert world.suspects() == (), "told once for the same silence"


def test_two_that_wait_prove_nothing() -> None:
    world = World()
    for name in "ab":
        world.send(name)
    world.passes(60 * SECOND)
    assert world.suspects() == ()


def test_a_region_that_is_usually_slow_gets_three_times_its_p99() -> None:
    world = World(latency_us=100 * MILLISECOND)
    for name in "abc":
        world.send(name)
    world.passes(299 * MILLISECOND)
    assert world.suspects() == ()
    world.passes(100 * MILLISECOND)  # the p99 is a bucket's upper edge
    assert len(world.suspects()) == 1


def test_before_there_is_experience_only_a_second_of_silence_counts() -> None:
    world = World()
    world.watch = HangWatch()
    for name in "abc":
        world.send(name)
    world.passes(SECOND - 1)
    assert world.suspects() == ()
    world.passes(1)
    assert len(world.suspects()) == 1


def test_three_connects_that_nobody_answers_are_a_hang_and_one_among_answers_is_a_lost_packet() -> None:
    world = World()
    watched = world.watch.endpoint("fra", A)
    began = []
    for _ in range(WAITING_MIN):
        world.passes(MILLISECOND)
        began.append(world.now)
    world.passes(watched.silence_us_max())
    assert [watched.given_up(since) for since in began] == [False, False, True]
    world.send("a")
    world.hear("a")
    assert not any(watched.given_up(since) for since in began), "it answered since they began"
    world.passes(MILLISECOND)
    assert [watched.given_up(world.now) for _ in range(WAITING_MIN)] == [False, False, True]


def test_one_endpoint_may_hang_while_its_neighbour_answers() -> None:
    world = World()
    for name in "abc":
        world.send(name)
    for turn in range(6):
        world.send(f"b{turn}", B)
        world.passes(10 * MILLISECOND)
        world.hear(f"b{turn}", B)
    (suspicion,) = world.suspects()
    assert (suspicion.endpoint, suspicion.flights) == (A, ("a", "b", "c"))


def test_who_was_told_of_is_evidence_no_more_but_asked_about_each_term() -> None:
    """Three stuck requests say once that an endpoint hangs; not again while it is on trial, or answers all others."""
    world = World()
    for name in "abc":
        world.send(name)
    world.passes(50 * MILLISECOND)
    assert len(world.suspects()) == 1
    world.passes(MILLISECOND)
    world.send("trial")
    world.passes(48 * MILLISECOND)
    assert list(world.watch.late(world.now)) == ["trial"], "late by itself, after 30 ms"
    world.passes(MILLISECOND)
    assert world.watch.next_due() == world.now
    assert list(world.watch.late(world.now)) == ["a", "b", "c"], "who could not be rescued then may be now"
    assert list(world.watch.late(world.now)) == []
    assert world.suspects() == ()
    world.hear("trial")
    for name in "de":
        world.send(name)
    world.passes(SECOND)
    assert world.suspects() == (), "two that wait prove nothing"
    world.send("f")
    world.passes(0)
    assert world.suspects() == (Suspicion("fra", None, SECOND, ("a", "b", "c", "d", "e", "f")),), "and all are told of"


def test_what_was_noted_behind_a_stall_is_taken_back_with_it() -> None:
    """Else it is ahead of all that follows by as much: the hang of who was asked then is found later by a stall."""
    world = World()
    world.send("answered", ahead_us=2 * SECOND)
    world.watch.endpoint("fra", A).heard("answered", Micros(world.now + 2 * SECOND))
    for name in "abc":
        world.send(name, ahead_us=2 * SECOND)
    world.watch.rewind(world.now)
    world.passes(50 * MILLISECOND)
    assert world.suspects() == (Suspicion("fra", None, 50 * MILLISECOND, ("a", "b", "c")),)


def test_what_nobody_waits_for_any_more_is_no_silence() -> None:
    world = World()
    for name in "abcd":
        world.send(name)
    world.passes(40 * MILLISECOND)
    for name in "abc":
        world.watch.endpoint("fra", A).dropped(name)
    world.passes(40 * MILLISECOND)
    assert world.suspects() == ()


def test_the_oldest_at_each_endpoint_is_known() -> None:
    watch: HangWatch[str] = HangWatch()
    one, two = watch.endpoint("fra", ("127.0.0.1", 1)), watch.endpoint("iad", ("127.0.0.1", 2))
    one.sent("a", Micros(SECOND))
    one.sent("b", Micros(2 * SECOND))
    assert watch.oldest(Micros(4 * SECOND)) == {("fra", ("127.0.0.1", 1)): 3 * SECOND}
    one.heard("a", Micros(4 * SECOND))
    two.sent("c", Micros(4 * SECOND))
    assert watch.oldest(Micros(5 * SECOND)) == {
        ("fra", ("127.0.0.1", 1)): 3 * SECOND,
        ("iad", ("127.0.0.1", 2)): SECOND,
    }
    one.dropped("b")
    assert list(watch.oldest(Micros(5 * SECOND))) == [("iad", ("127.0.0.1", 2))]


def test_who_is_late_is_asked_once() -> None:
    world = World(latency_us=40 * MILLISECOND)
    world.send("a")
    world.passes(79 * MILLISECOND)
    assert list(world.watch.late(world.now)) == []
    world.passes(20 * MILLISECOND)
    world.send("b")
    assert list(world.watch.late(world.now)) == ["a"]
    assert list(world.watch.late(world.now)) == []


@given(st.lists(st.tuples(st.sampled_from("sahdw"), st.integers(0, 7), st.integers(0, 40_000)), max_size=80))
def test_the_laws_of_the_watch(steps: list[tuple[str, int, int]]) -> None:
    """Suspicion needs, and follows from, k that wait of whom nobody was told, and silence since the last byte; the next
    due time is never missed, and who is sent behind a stall, before it is taken out, hides nobody.
    """
    world = World()
    sent: dict[str, Micros] = {}
    last_byte = world.now
    told: set[str] = set()
    for turn, (kind, number, us) in enumerate(steps):
        if kind in "sa":
            sent[f"{turn}"] = world.now
            world.send(f"{turn}", ahead_us=10 * us if kind == "a" else 0)
            world.watch.rewind(world.now)
        elif kind == "w":
            world.passes(us)
        elif sent:
            flight = sorted(sent)[number % len(sent)]
            del sent[flight]
            if kind == "h":
                world.hear(flight)
                last_byte = world.now
            else:
                world.watch.endpoint("fra", A).dropped(flight)
        due = world.watch.next_due()
        news = [at for flight, at in sent.items() if flight not in told]
        limit_us = world.watch.endpoint("fra", A).silence_us_max()
        must = len(news) >= WAITING_MIN and world.now - max(last_byte, news[0]) >= limit_us
        found = world.suspects()
        assert bool(found) is must
        late = list(world.watch.late(world.now))
        if found or late:
            assert due is not None
            assert due <= world.now
        for suspicion in found:
            assert set(suspicion.flights) == set(sent)
            assert len(news) >= WAITING_MIN
            assert world.now - max(last_byte, min(news)) >= 50 * MILLISECOND
            told |= set(sent)
        after = world.watch.next_due()
        assert after is None or after > world.now, "nothing that was told stays due: no spinning"


@given(st.lists(st.integers(1, 10**9), min_size=SAMPLES_MIN, max_size=400))
def test_a_p99_is_at_most_a_quarter_above_the_true_one_and_never_below(latencies: list[int]) -> None:
    histogram = Latencies()
    for latency in latencies:
        histogram.add(latency)
    histogram.add(latencies[0])
    found = None
    for _ in range(2):
        found = histogram.p99_us()
    assert found is not None
    true = sorted([*latencies, latencies[0]])[-1 - (len(latencies) + 1) // 100]
    assert true <= found or found == pytest.approx(true, rel=0.25)
    assert found <= max(true * 5 // 4 + 1, 7)


@pytest.mark.parametrize("pattern", ["x", ".x", "..x"])
def test_an_endpoint_is_left_after_five_bad_answers_of_sixteen(pattern: str) -> None:
    watched = World().watch.endpoint("fra", A)
    bad = 0
    for turn in range(100):
        available = pattern[turn % len(pattern)] == "."
        bad += not available
        assert watched.answered(available=available) is (bad >= UNAVAILABLE_MIN and not available)
        if turn >= 15:
            break


# --- the budget


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 500_000)), max_size=300), st.integers(0, 10))
def test_a_budget_never_exceeds_its_share_of_the_last_two_windows(steps: list[tuple[bool, int]], spare: int) -> None:
    requests = Window()
    budget = Budget(requests, 200_000, spare)
    now = Micros(0)
    earned: list[int] = []
    spent: list[int] = []
    for spends, us in steps:
        now = Micros(now + us)
        if spends:
            if budget.spend(now):
                spent.append(now)
        else:
            requests.add(now)
            earned.append(now)
        begin = (now // WINDOW_US - 1) * WINDOW_US
        assert sum(at >= begin for at in spent) <= spare + len(earned) * 20 // 100


def test_a_quiet_service_may_rescue_a_few_and_then_earns_more() -> None:
    requests = Window()
    budget = Budget(requests, 200_000, 2)
    assert [budget.spend(Micros(0)) for _ in range(3)] == [True, True, False]
    for _ in range(5):
        requests.add(Micros(0))
    assert [budget.spend(Micros(0)) for _ in range(2)] == [True, False]
    assert budget.spend(Micros(2 * WINDOW_US)), "and forgets"
