"""The whole corpus through the router to an origin that forgives nothing: h11 reads what we write, or we fail."""

from __future__ import annotations

import h11
import trio
import trio.testing

from tests.router.traffic.bad_requests import BAD_BODIES, BAD_HEADS
from tests.router.traffic.odd_requests import BAD_FAMILIES, ODD
from tests.router.traffic.upstreams import FixedRouter, Wire, listen, proxied

NEVER = (b"proxy", b"http2-settings", b"upgrade", b"x_forwarded_for")
"""No origin hears of these, nor of a framing field spelt with an underscore."""


class Origin:
    """Whole requests, as h11 read them; anything that h11 refuses is a failure of ours."""

    def __init__(self) -> None:
        self.read: list[tuple[bytes, bytes, bytes]] = []
        self.faults: list[str] = []

    async def serve(self, wire: Wire) -> None:
        oracle = h11.Connection(h11.SERVER)
        request: h11.Request | None = None
        body = b""
        while True:
            try:
                event = oracle.next_event()
            except h11.RemoteProtocolError as error:
                self.faults.append(str(error))
                return
            if event is h11.NEED_DATA:
                if not await wire.more():
                    return
                oracle.receive_data(wire.buffer)
                wire.buffer = b""
            elif isinstance(event, h11.Request):
                request, body = event, b""
                names = [bytes(name) for name, _ in event.headers]
                self.faults += [f"{value!r}" for name, value in event.headers if name == b"te" and value != b"trailers"]
                self.faults += [f"{name!r} came through" for name in names if name in NEVER]
                self.faults += [f"{name!r}" for name in names if b"_" in name and name.replace(b"_", b"-") in names]
                if names.count(b"forwarded") != 1 or names.count(b"host") != 1:
                    self.faults.append(f"{names}")
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                self.faults += [f"trailer {name!r} came through" for name, _ in event.headers if name != b"a"]
                self.read.append((bytes(request.method), bytes(request.target), body))
                head = oracle.send(h11.Response(status_code=200, headers=[("Content-Length", "2")]))
                data, end = oracle.send(h11.Data(b"ok")), oracle.send(h11.EndOfMessage())
                await wire.send((head or b"") + (data or b"") + (end or b""))
                oracle.start_next_cycle()
            else:
                return


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(BAD_HEADS) + len(BAD_BODIES) + len(BAD_FAMILIES) + len(ODD) >= 250
    assert not set(BAD_HEADS) & set(BAD_FAMILIES)


async def test_a_strict_origin_reads_what_was_meant_or_nothing() -> None:
    origin = Origin()
    wrong: list[str] = []
    async with trio.open_nursery() as nursery:
        endpoint = (await listen(nursery, origin.serve)).endpoint
        async with proxied(FixedRouter(endpoint)) as stage:
            for name, (expected, raw) in {**BAD_HEADS, **BAD_BODIES, **BAD_FAMILIES}.items():
                wire = await stage.client()
                await wire.send(raw)
                response = await wire.response()
                await wire.stream.send_eof()
                if (response.status, await wire.rest(), origin.read) != (expected, b"", []):
                    wrong.append(f"{name}: {response.status}, not {expected}; the origin read {origin.read}")
                origin.read.clear()
            for name, odd in ODD.items():
                wire = await stage.client()
                await wire.send(odd.raw)
                for method, _, _ in odd.read:
                    response = await wire.response(method.decode("ascii"))
                    if (response.status, response.body) != (200, b"ok"):
                        wrong.append(f"{name}: answered {response.first!r}")
                await wire.stream.send_eof()
                if (await wire.rest(), tuple(origin.read)) != (b"", odd.read):
                    wrong.append(f"{name}: the origin read {origin.read}, not {odd.read}")
                origin.read.clear()
        nursery.cancel_scope.cancel()
    assert wrong == []
    assert origin.faults == []
