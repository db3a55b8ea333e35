"""What goes over the link comes out as it went in, in whatever pieces."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.workers.messages import (
    Admitted,
    Configure,
    Counted,
    Deframer,
    Drain,
    Forget,
    Masked,
    Observed,
    Outcomes,
    Planned,
    Ready,
    Reported,
    ToNode,
    ToWorker,
    decode_to_node,
    decode_to_worker,
    encode,
)

TEXT = st.text(max_size=20)
COUNT = st.integers(0, 2**53)
ENDPOINT = st.tuples(TEXT, st.integers(0, 65_535))
TABLE = st.dictionaries(TEXT, COUNT, max_size=3)
TO_WORKER: st.SearchStrategy[ToWorker] = st.one_of(
    st.builds(Configure, TEXT),
    st.builds(Planned, TABLE, TABLE, TABLE, COUNT, COUNT),
    st.builds(Masked, st.lists(ENDPOINT, max_size=3), COUNT),
    st.builds(Forget, TEXT, TEXT),
    st.builds(Drain, COUNT),
)
TO_NODE: st.SearchStrategy[ToNode] = st.one_of(
    st.builds(Ready, COUNT),
    st.builds(Observed, COUNT, st.lists(st.builds(Outcomes, TEXT, TEXT, ENDPOINT, TEXT, COUNT), max_size=3)),
    st.builds(Admitted, ENDPOINT),
    st.builds(Reported, TEXT, TEXT, ENDPOINT, COUNT),
    st.builds(Counted, TABLE),
)


@given(st.lists(TO_WORKER, max_size=4), st.lists(TO_NODE, max_size=4), st.data())
def test_messages_arrive_whole(to_worker: list[ToWorker], to_node: list[ToNode], data: st.DataObject) -> None:
    wire = b"".join(map(encode, [*to_worker, *to_node]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=5)))
    deframer = Deframer()
    pieces = [wire[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(wire)])]
    whole = [message for piece in pieces for message in deframer.feed(piece)]
    assert [decode_to_worker(message) for message in whole[: len(to_worker)]] == to_worker
    assert [decode_to_node(message) for message in whole[len(to_worker) :]] == to_node


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(ValueError, match="a message of 4294967295 bytes"):
        Deframer().feed(b"\xff\xff\xff\xff")
    with pytest.raises(msgspec.ValidationError):
        decode_to_node(b'{"type":"Drain","grace_us":1}')  # the other direction's
