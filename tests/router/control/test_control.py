from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lattice.identity import Grant
from router.control.answers import EVENTS_MAX, head_of
from router.control.api import OPS_BYTES_MAX, OPS_MEDIA_TYPE, UPDATE_BYTES_MAX, control_app
from router.control.body import DecisionBody, HeadBody, SnapshotBody, ViewBody
from router.control.gate import Gate, host_allowed
from router.control.server import serve_control
from router.control.target import ControlTarget, NodeEvent, Proof
from router.decision.decide import Request
from router.errors import ListenError
from router.listening import bound_endpoint, listen
from router.policy import TEXT_BYTES_MAX
from tests.router.control.fake_target import AUTHOR, AUTHOR_KEY, NOW_MS, POLICY, FakeTarget, ops_of


class Answer:
    """What an ASGI application sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: Gate,
    target: str,
    *,
    body: bytes | list[bytes] | None = None,
    method: str | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request straight into the application: no socket, no server."""
    path, _, query = target.partition("?")
    pieces = body if isinstance(body, list) else [body or b""]
    told = {"host": "127.0.0.1:8180", **(headers or {})}
    answer = Answer()
    sent = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        sent += 1
        if sent > len(pieces):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": pieces[sent - 1], "more_body": sent < len(pieces)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method or ("GET" if body is None else "POST"),
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in told.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8180),
    }
    await app(scope, receive, send)
    return answer


@pytest.fixture
def target() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def app(target: FakeTarget) -> Gate:
    conforms: ControlTarget = target  # mypy: the fake is what the node must be
    return control_app(conforms, ["console.example.com"])


JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain; charset=utf-8"}
OPS = {"content-type": OPS_MEDIA_TYPE}


# --- what it says


async def test_the_view_has_everything_and_reads_back(app: Gate) -> None:
    answer = await ask(app, "/v1/view")
    assert answer.status == 200
    view = msgspec.json.decode(answer.body, type=ViewBody)
    assert msgspec.json.encode(view) + b"\n" == answer.body
    assert view.site == "ams"
    assert view.now_ms == NOW_MS
    assert [(region.region, region.effective) for region in view.regions] == [("ams", "HEALTHY"), ("fra", "DOWN")]
    assert [(witness.site, witness.level) for witness in view.regions[1].witnesses] == [
        ("ams", "DOWN"),
        ("fra", "FAILING"),
    ]
    said = [(witness.latency_us, witness.errors_ppm, witness.evidence) for witness in view.regions[1].witnesses]
    assert said == [(0, 0, 0), (20_480, 229_376, 40)], "of whom there is no row, nothing; else the least of its bucket"
    assert view.members[1].address == "127.0.0.1:7947"
    assert view.policies[0].applied_ms == NOW_MS - 60_950
    assert view.ejected == ["127.1.0.2:9001", "[::1]:9001"]
    assert view.events == [
        {
            "at_ms": NOW_MS - 2_000,
            "kind": "region",
            "text": "fra is DOWN",
            "region": "fra",
            "old": "HEALTHY",
            "new": "DOWN",
        }
    ]
    assert answer.headers["cache-control"] == "no-store"


async def test_only_the_last_events_are_in_the_view() -> None:
    class Lively(FakeTarget):
        def events(self) -> list[NodeEvent]:
            return [NodeEvent(number, "member", str(number)) for number in range(EVENTS_MAX + 10)]

    answer = await ask(control_app(Lively()), "/v1/view")
    assert [event["text"] for event in answer.json["events"]] == [str(n) for n in range(10, EVENTS_MAX + 10)]


async def test_a_decision_can_be_asked_for(app: Gate, target: FakeTarget) -> None:
    answer = await ask(app, "/v1/decide?client=127.10.0.1&host=shop.example.com&path=/a%20b&method=post")
    assert answer.status == 400  # a space is no path
    answer = await ask(app, "/v1/decide?client=127.10.0.1&host=shop.example.com&path=/a%2520b&method=post")
    decision = msgspec.json.decode(answer.body, type=DecisionBody)
    assert (decision.region, decision.proposed, decision.reason) == ("ams", "fra", "secondary: fra DOWN")
    assert decision.attempts[0].endpoint == "127.1.0.1:9001"
    assert target.requests == [Request("127.10.0.1", "shop.example.com", "/a%20b", "POST")]


async def test_the_policy_in_force_is_text(app: Gate) -> None:
    answer = await ask(app, "/policy")
    assert (answer.status, answer.body.decode()) == (200, POLICY)
    assert answer.headers["content-type"].startswith("text/plain")
    assert (await ask(app, "/policy?policy=other")).status == 404


async def test_the_snapshot(app: Gate) -> None:
    answer = await ask(app, "/snapshot")
    regions = msgspec.json.decode(answer.body, type=SnapshotBody).regions
    assert (regions[0].error_rate, regions[0].timestamp) == (0.0015, NOW_MS / 1_000)
    assert (regions[1].latency_ms, regions[1].level) == (None, "UNKNOWN")


async def test_it_is_there(app: Gate) -> None:
    answer = await ask(app, "/healthz")
    assert (answer.status, answer.body) == (200, b"ok\n")


# --- what it may be told


@pytest.mark.parametrize(
    ("timestamp", "timestamp_ms"),
    [(None, NOW_MS), (1_700_000_000, NOW_MS), (1_700_000_000.25, NOW_MS + 250), (NOW_MS, NOW_MS)],
)
async def test_a_signal_is_taken_in_seconds_or_milliseconds(
    app: Gate, target: FakeTarget, timestamp: float | None, timestamp_ms: int
) -> None:
    body = {"region": "fra", "latency_ms": 12.6, "error_rate": 0.015, "capacity_pct": 80}
    if timestamp is not None:
        body["timestamp"] = timestamp
    answer = await ask(app, "/update", body=json.dumps(body).encode(), headers=JSON)
    assert (answer.status, answer.body) == (204, b"")
    (signal,) = target.signals
    assert (signal.latency_ms, signal.error_rate_ppm, signal.capacity_pct) == (13, 15_000, 80)
    assert signal.timestamp_ms == timestamp_ms


SIGNED = (
    '{"region":"fra","latency_ms":1,"error_rate":0,"timestamp":1,"proof":'
    f'{{"key":"{"ab" * 32}","until":1,"grant":"{"cd" * 64}","signature":"{"ef" * 64}"}}}}'
)


async def test_the_proof_of_a_signed_signal_reaches_the_target(app: Gate, target: FakeTarget) -> None:
    answer = await ask(app, "/update", body=SIGNED.encode(), headers=JSON)
    assert answer.status == 204
    (proof,) = target.proofs
    assert proof == Proof(b"\xab" * 32, Grant("fra", 1, b"\xcd" * 64), b"\xef" * 64)


@pytest.mark.parametrize(
    ("body", "status", "path", "said"),
    [
        ("", 400, "", "not JSON"),
        ("{", 400, "", "not JSON"),
        ("[]", 422, "$", "Expected `object`, got `array`"),
        ('{"region":"fra"}', 422, "$", "missing required field `latency_ms`"),
        ('{"region":"fra","latency_ms":-1,"error_rate":0}', 422, "$.latency_ms", ">= 0"),
        ('{"region":"fra","latency_ms":1,"error_rate":1.1}', 422, "$.error_rate", "<= 1.0"),
        ('{"region":"fra","latency_ms":"1","error_rate":0}', 422, "$.latency_ms", "Expected `float`, got `str`"),
        ('{"region":"fra","latency_ms":1,"error_rate":0,"x":1}', 422, "$", "unknown field `x`"),
        ('{"region":"fra","latency_ms":NaN,"error_rate":0}', 400, "", "not JSON"),
        ('{"region":"mars","latency_ms":1,"error_rate":0}', 422, "", "no policy names a region 'mars'"),
        ('{"region":"fra","latency_ms":1,"error_rate":0,"timestamp":1,"proof":{}}', 422, "$.proof", "missing required"),
        (SIGNED.replace('"timestamp":1,', ""), 422, "$.timestamp", "a signed signal says when"),
        (SIGNED.replace('"until":1', '"until":-1'), 422, "$.proof.until", ">= 0"),
        (SIGNED.replace("ab" * 32, "AB" * 32), 422, "$.proof.key", "regex"),
        ('{"region":"fra","latency_ms":1e999,"error_rate":0}', 422, "$.latency_ms", "out of range"),
    ],
)
async def test_a_malformed_signal_is_refused_and_counted(
    app: Gate, target: FakeTarget, body: str, status: int, path: str, said: str
) -> None:
    answer = await ask(app, "/update", body=body.encode(), headers=JSON)
    assert answer.status == status
    assert said in answer.json["error"]
    assert answer.json.get("path", "") == path
    assert target.signals == []
    counters = (await ask(app, "/v1/view")).json["counters"]
    assert sum(count for name, count in counters.items() if name.startswith("control_refused_")) == 1


async def test_signed_ops_are_judged_by_the_target(app: Gate, target: FakeTarget) -> None:
    answer = await ask(app, "/v1/policy", body=msgspec.msgpack.encode(ops_of(POLICY)), headers=OPS)
    assert answer.status == 200
    assert answer.json["policy"] == "default"
    assert answer.json["ops"] == 1
    head = msgspec.json.decode((await ask(app, f"/v1/policy/head?author={AUTHOR.hex()}")).body, type=HeadBody)
    assert head_of(head) == target.policy_head("default", AUTHOR)
    assert head.seq == 1
    assert head.parent == answer.json["version"]


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", msgspec.msgpack.encode([]), msgspec.msgpack.encode(["text"]), msgspec.msgpack.encode({"a": 1}),
     msgspec.msgpack.encode([b""]), msgspec.msgpack.encode([b"x"] * 2_000), b"\xdd\xff\xff\xff\xff"],
)  # fmt: skip
async def test_what_is_no_list_of_ops_never_reaches_the_target(app: Gate, target: FakeTarget, body: bytes) -> None:
    answer = await ask(app, "/v1/policy", body=body, headers=OPS)
    assert answer.status == 422
    assert "not a msgpack array of signed statements" in answer.json["error"]


async def test_purges_are_judged_by_the_target(app: Gate) -> None:
    good, forged = (msgspec.msgpack.encode([word]) for word in (b"an author's word", b"nobody's"))
    assert (await ask(app, "/v1/purges", body=good, headers=OPS)).status == 204
    refused = await ask(app, "/v1/purges", body=forged, headers=OPS)
    assert (refused.status, refused.json["error"]) == (422, "bad purge signature")
    assert (await ask(app, "/v1/purges", body=good, headers=JSON)).status == 415


async def test_an_op_that_does_not_hold_is_refused(app: Gate, target: FakeTarget) -> None:
    forged = bytearray(ops_of(POLICY)[0])
    forged[-1] ^= 1
    answer = await ask(app, "/v1/policy", body=msgspec.msgpack.encode([bytes(forged)]), headers=OPS)
    assert answer.status == 422
    assert "signature" in answer.json["error"]
    assert target.store.policies() == ()


async def test_plain_text_needs_a_node_with_a_key(app: Gate) -> None:
    answer = await ask(app, "/v1/policy", body=POLICY.encode(), headers=TEXT)
    assert (answer.status, answer.json["remedy"]) == (403, "sign it where the key is")
    target = FakeTarget(AUTHOR_KEY)
    answer = await ask(control_app(target), "/v1/policy?policy=shop&message=why", body=POLICY.encode(), headers=TEXT)
    assert answer.status == 200
    assert target.published == [("shop", POLICY, "why")]


async def test_a_policy_that_does_not_hold_is_answered_with_its_diagnostics() -> None:
    app = control_app(FakeTarget(AUTHOR_KEY))
    answer = await ask(app, "/v1/policy", body=POLICY.replace("region fra", "regoin fra").encode(), headers=TEXT)
    assert answer.status == 422
    (diagnostic,) = answer.json["diagnostics"]
    assert diagnostic["line"] == 7
    assert "regoin" in answer.json["rendered"]
    answer = await ask(app, "/v1/policy", body=b"region \xff", headers=TEXT)
    assert (answer.status, answer.json["error"]) == (422, "the policy is not UTF-8 text: byte 7 is 0xff")


# --- the door


@pytest.mark.parametrize(
    ("path", "kind", "bytes_max"),
    [("/update", JSON, UPDATE_BYTES_MAX), ("/v1/policy", TEXT, TEXT_BYTES_MAX), ("/v1/policy", OPS, OPS_BYTES_MAX)],
)
async def test_a_body_may_not_grow_past_its_limit(path: str, kind: dict[str, str], bytes_max: int) -> None:
    app = control_app(FakeTarget(AUTHOR_KEY))
    told = await ask(app, path, body=b"", headers={**kind, "content-length": str(bytes_max + 1)})
    streamed = await ask(app, path, body=[b" " * bytes_max, b" ", b"never read"], headers=kind)
    for answer in (told, streamed):
        assert answer.status == 413
        assert answer.json["error"] == f"the body is larger than {bytes_max} bytes"
        assert answer.headers["connection"] == "close"
    assert (await ask(app, path, body=b" " * bytes_max, headers=kind)).status != 413


@pytest.mark.parametrize(
    ("target", "path", "said"),
    [
        ("/v1/view?x=1", "x", "unknown query parameter"),
        ("/v1/decide?host=a&path=/", "client", "'client' is missing"),
        ("/v1/decide?client=me&host=a&path=/", "client", "a numeric IPv4 or IPv6 address"),
        ("/v1/decide?client=::1&host=&path=/", "host", "a host name"),
        ("/v1/decide?client=::1&host=a&path=b", "path", "begins with /"),
        ("/v1/decide?client=::1&host=a&path=/&method=%00", "method", "an HTTP method"),
        ("/v1/decide?client=::1&client=::2&host=a&path=/", "client", "twice"),
        ("/policy?policy=../x", "policy", "expected 1 to 32 of"),
        ("/v1/policy/head?author=12", "author", "32 hexadecimal digits"),
    ],
)
async def test_a_wrong_query_is_named(app: Gate, target: str, path: str, said: str) -> None:
    answer = await ask(app, target)
    assert answer.status == 400
    assert answer.json["path"] == path
    assert said in answer.json["error"]


async def test_wrong_paths_and_methods_name_the_right_ones(app: Gate) -> None:
    answer = await ask(app, "/v2/view")
    assert (answer.status, "/v1/view" in answer.json["remedy"]) == (404, True)
    assert (await ask(app, "/policy/")).status == 404
    answer = await ask(app, "/v1/view", method="DELETE")
    assert (answer.status, "GET" in answer.headers["allow"]) == (405, True)
    answer = await ask(app, "/update")
    assert (answer.status, answer.json["remedy"]) == (405, "use POST")


@pytest.mark.parametrize("kind", [{}, {"content-type": "application/x-www-form-urlencoded"}])
async def test_a_form_cannot_write(app: Gate, target: FakeTarget, kind: dict[str, str]) -> None:
    for path in ("/update", "/v1/policy"):
        answer = await ask(app, path, body=b"{}", headers=kind)
        assert (answer.status, answer.json["path"]) == (415, "Content-Type")


@pytest.mark.parametrize(
    "foreign",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9"},
     {"sec-fetch-site": "cross-site"}],
)  # fmt: skip
async def test_a_page_of_another_origin_cannot_write(app: Gate, target: FakeTarget, foreign: dict[str, str]) -> None:
    body = b'{"region":"fra","latency_ms":1,"error_rate":0}'
    assert (await ask(app, "/update", body=body, headers=JSON | foreign)).status == 403
    assert target.signals == []
    own = {"origin": "http://127.0.0.1:8180", "sec-fetch-site": "same-origin"}
    assert (await ask(app, "/update", body=body, headers=JSON | own)).status == 204


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8180", True),
        ("[::1]:8180", True),
        ("10.1.2.3", True),
        ("localhost:8180", True),
        ("LOCALHOST.", True),
        ("console.example.com", True),
        ("evil.example:8180", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("[evil.example]", False),
        ("", False),
    ],
)
async def test_only_names_of_our_own_are_answered(app: Gate, host: str, allowed: bool) -> None:
    assert host_allowed(host, {"console.example.com"}) == allowed
    answer = await ask(app, "/v1/view", headers={"host": host})
    assert answer.status == (200 if allowed else 421)


async def test_a_mistake_of_ours_is_a_plain_500(
    app: Gate, target: FakeTarget, caplog: pytest.LogCaptureFixture
) -> None:
    target.fails = True
    answer = await ask(app, "/v1/view")
    assert (answer.status, answer.json) == (500, {"error": "a mistake of this node's; its log has it"})
    assert "a mistake in the node" in caplog.text
    target.fails = False
    assert (await ask(app, "/v1/view")).json["counters"]["control_failed"] == 1


async def test_a_caller_who_leaves_is_no_error(app: Gate) -> None:
    await ask(app, "/update", body=[], headers=JSON, method="POST")
    assert (await ask(app, "/v1/view")).json["counters"]["control_disconnected"] == 1


@given(
    path=st.sampled_from(
        ["/v1/view", "/v1/decide", "/v1/policy", "/v1/policy/head", "/update", "/snapshot", "/policy"]
    ),
    query=st.text(alphabet=st.characters(codec="ascii"), max_size=40),
    body=st.none() | st.binary(max_size=200),
    kind=st.sampled_from([JSON, TEXT, OPS, {}]),
)
def test_whatever_comes_in_an_answer_goes_out(path: str, query: str, body: bytes | None, kind: dict[str, str]) -> None:
    async def once() -> None:
        target = FakeTarget(AUTHOR_KEY)
        answer = await ask(control_app(target), f"{path}?{query}", body=body, headers=kind)
        assert 200 <= answer.status < 500
        assert target.signals == []
        assert answer.status < 400 or answer.json["error"]

    trio.run(once)


# --- on a socket


async def http_get(endpoint: tuple[str, int], path: str) -> bytes:
    async with await trio.open_tcp_stream(*endpoint) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        received = bytearray()
        async for piece in stream:
            received += piece
        return bytes(received)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_it_is_served_until_told_to_stop(app: Gate, host: str) -> None:
    listener = listen((host, 0), "control.listen")
    endpoint = bound_endpoint(listener)
    stop = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, app, listener, stop)
            answer = await http_get(endpoint, "/healthz")
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"\r\n\r\nok\n")
            async with await trio.open_tcp_stream(*endpoint):  # an idle caller does not hold up the end
                stop.set()
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream(*endpoint)


async def test_it_can_be_cancelled(app: Gate) -> None:
    listener = listen(("127.0.0.1", 0), "control.listen")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, app, listener, trio.Event())
            nursery.cancel_scope.cancel()


def test_a_port_that_is_taken_is_one_clear_message() -> None:
    with listen(("127.0.0.1", 0), "control.listen") as taken:
        host, port = bound_endpoint(taken)
        with pytest.raises(
            ListenError, match=rf"control\.listen: cannot listen on 127\.0\.0\.1:{port}: Address already in use; stop"
        ):
            listen((host, port), "control.listen")


async def test_a_connection_that_breaks_its_protocol_ends_alone(app: Gate) -> None:
    """A malformed h2c upgrade raises inside Hypercorn; the others go on."""
    listener = listen(("127.0.0.1", 0), "control.listen")
    endpoint = bound_endpoint(listener)
    stop = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, app, listener, stop)
            for settings in ("A", "%%%%"):
                async with await trio.open_tcp_stream(*endpoint) as stream:
                    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
                    head = f"GET / HTTP/1.1\r\nHost: localhost\r\n{upgrade}HTTP2-Settings: {settings}\r\n\r\n"
                    await stream.send_all(head.encode())
                    with contextlib.suppress(trio.BrokenResourceError):
                        async for _ in stream:
                            pass
            assert (await http_get(endpoint, "/healthz")).startswith(b"HTTP/1.1 200")
            stop.set()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_client_that_never_reads_does_not_hold_up_the_end(app: Gate, cancelled: bool) -> None:
    listener = listen(("127.0.0.1", 0), "control.listen")
    endpoint = bound_endpoint(listener)
    stop = trio.Event()
    request = b"GET /v1/view HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with trio.fail_after(20):
        async with await trio.open_tcp_stream(*endpoint) as stream, trio.open_nursery() as nursery:
            await nursery.start(serve_control, app, listener, stop)
            with trio.move_on_after(1):
                while True:
                    await stream.send_all(request * 100)
            if cancelled:
                nursery.cancel_scope.cancel()
            stop.set()
