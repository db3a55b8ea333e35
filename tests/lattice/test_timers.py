"""Deadlines, against the obvious model: a dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lattice.timers import NEVER_COMES, TimerQueue
from lattice.types import Micros

moves = st.lists(
    st.tuples(
        st.sampled_from(("set", "set_earlier", "cancel", "pop")), st.sampled_from("abc"), st.integers(0, 9).map(Micros)
    ),
    max_size=40,
)


@given(moves)
def test_a_queue_is_a_dictionary_that_knows_its_least(made: list[tuple[str, str, Micros]]) -> None:
    queue, model = TimerQueue(), dict[str, Micros]()
    for move, name, at in made:
        match move:
            case "set":
                queue.set(name, at)
                model[name] = at
            case "set_earlier":
                queue.set_earlier(name, at)
                model[name] = min(at, model.get(name, at))
            case "cancel":
                queue.cancel(name)
                model.pop(name, None)
            case _:
                if model:
                    _, first = min((when, who) for who, when in model.items())
                    assert queue.pop() == first
                    del model[first]
        assert queue.first == min(model.values(), default=NEVER_COMES)
        assert [who for who in "abc" if who in queue] == sorted(model)


def test_ties_are_by_name() -> None:
    queue = TimerQueue()
    for name in ("b", "c", "a"):
        queue.set(name, Micros(5))
    assert [queue.pop() for _ in range(3)] == ["a", "b", "c"]
