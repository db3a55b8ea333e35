"""Every value that tests can tell apart has one that stands for it."""

from __future__ import annotations

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from router.decision import representatives
from router.decision.representatives import TooHardError, hosts, paths
from router.policy.hosts import covering_patterns
from router.policy.paths import PathPattern

segments = st.lists(st.sampled_from(("a", "b", "*", "x")), max_size=3)
tails = st.sampled_from(((), (), ("**",), ("**",), ("",)))
patterns = st.builds(lambda inner, tail: "/" + "/".join([*inner, *tail]), segments, tails).filter(
    lambda one: one != "//"
)
asked_paths = st.lists(st.sampled_from(("a", "b", "x", "q", "")), max_size=5).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(patterns, min_size=1, max_size=6), st.lists(asked_paths, min_size=1, max_size=20))
@example(["/a/**", "/a/*/**", "/a", "/a/"], ["/a//b"])
@example(["/a/*/*", "/*/b/*", "/*/*/x"], ["/a/b/x"])
@example(["/x/*", "/x/x"], ["/x/q"])
def test_for_every_path_one_is_held_by_the_same_patterns(written: list[str], asked: list[str]) -> None:
    compiled = [PathPattern.compiled(pattern) for pattern in written]
    known = {tuple(pattern.matches(path) for pattern in compiled) for path in paths(written)}
    for path in asked:
        held = tuple(pattern.matches(path) for pattern in compiled)
        assert held in known, path
        event(f"held by {min(2, sum(held))}")


labels = st.sampled_from(("a", "b", "x", "example"))
names = st.lists(labels, min_size=1, max_size=3).map(".".join)
host_patterns = st.one_of(names, names.map(lambda name: f"*.{name}"), st.just("*"))


@given(st.lists(host_patterns, min_size=1, max_size=6), st.lists(names, min_size=1, max_size=20))
def test_for_every_host_one_is_held_by_the_same_patterns(written: list[str], asked: list[str]) -> None:
    def held(host: str) -> tuple[bool, ...]:
        covering = covering_patterns(host)
        return tuple(pattern in covering for pattern in written)

    known = {held(host) for host in hosts(written)}
    assert all(held(host) in known for host in asked)


def test_patterns_that_all_overlap_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    written = ["/" + "/".join("a" if place == at else "*" for place in range(9)) for at in range(9)]
    assert len(paths(written)) >= 2**9
    monkeypatch.setattr(representatives, "PATTERNS_MAX", 100)
    with pytest.raises(TooHardError):
        paths(written)
