"""What a change of policy would move, and what a policy would have done with recorded traffic."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from router.decision.decide import decide
from router.decision.plan import RouteTable
from router.decision.request import Request

LINE_LENGTH_MAX = 64 * 1024
_COMMON = re.compile(
    r'(?P<client>\S+) \S+ \S+ \[[^\]]*\] "(?P<method>[A-Z-]+) (?P<path>\S+)[^"]*" \d{3} \S+'
    r'(?: "(?P<referer>[^"]*)" "(?P<agent>[^"]*)")?'
)


@dataclass(slots=True)
class Study:
    """Counts over requests. `moves` is by (region before, region after); "deny 503" stands for a denial."""

    requests: int = 0
    moved: int = 0
    users: set[str] = field(default_factory=set)
    users_moved: set[str] = field(default_factory=set)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0


def compare(before: RouteTable, after: RouteTable, requests: Iterable[Request]) -> Study:
    """What is decided differently under `after`."""
    study = Study()
    for request in requests:
        study.requests += 1
        study.users.add(request.client)
        was, now = (_outcome(table, request) for table in (before, after))
        study.regions[now] += 1
        if was != now:
            study.moved += 1
            study.users_moved.add(request.client)
            study.moves[was, now] += 1
    return study


def simulate(table: RouteTable, requests: Iterable[Request | None]) -> Study:
    """Where the policy sends these requests; None stands for a line that could not be read."""
    study = Study()
    for request in requests:
        if request is None:
            study.unreadable += 1
            continue
        decision = decide(table, request, frozenset())
        study.requests += 1
        study.users.add(request.client)
        study.regions[decision.region or f"deny {decision.status}"] += 1
        study.rules[f"{decision.route or 'no route'} {decision.rule}".strip()] += 1
    return study


def _outcome(table: RouteTable, request: Request) -> str:
    decision = decide(table, request, frozenset())
    return decision.region or f"deny {decision.status}"


def read_log_line(line: str, host: str) -> Request | None:
    """A request from a line of an access log: common or combined format, or JSON. None when it is neither.

    JSON may have client (or remote_addr), host, path (or uri), method, headers (an object), country, continent, asn.
    """
    line = line[:LINE_LENGTH_MAX].strip()
    if line.startswith("{"):
        return _from_json(line, host)
    matched = _COMMON.match(line)
    if matched is None:
        return None
    agent = matched["agent"]
    headers = (("user-agent", agent),) if agent and agent != "-" else ()
    return Request(matched["client"], host, matched["path"], matched["method"], headers)


def _from_json(line: str, host: str) -> Request | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None

    def text(*names: str, default: str = "") -> str:
        return next((value for name in names if isinstance(value := entry.get(name), str)), default)

    headers = entry.get("headers")
    pairs = headers.items() if isinstance(headers, dict) else ()
    asn = entry.get("asn")
    client = text("client", "remote_addr", "client_ip")
    if not client:
        return None
    return Request(
        client=client,
        host=text("host", default=host),
        path=text("path", "uri", "request_uri", default="/"),
        method=text("method", "request_method", default="GET"),
        headers=tuple((str(name).lower(), str(value)) for name, value in pairs),
        country=text("country"),
        continent=text("continent"),
        asn=asn if type(asn) is int else 0,
    )
