"""Access logs as requests: the common and the combined log format, and JSON, a line each.

A line that is none of them, or says of a request what cannot be, is no request: it is counted, and told with its number
and with what is wrong. Nothing is guessed, for a guess would be steered like a request and counted like one.

Common lines say client, time, method and path; whatever a policy asks beyond that (place, headers, host) only JSON can.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from lattice.types import SECOND
from router.decision.nearby import location_at
from router.decision.request import Request, upgrade_of
from router.policy.errors import excerpt
from router.policy.values import BadValueError, read_continent, read_country, read_method, read_place
from router.policy.windows import read_moment
from router.policy.zones import read_client

LINE_LENGTH_MAX: Final = 64 * 1024
# Every part of the pattern ends where the next can begin, so that no line takes longer than it is long.
_COMMON = re.compile(
    r'(?P<client>\S+) \S+ [^\[]*\[(?P<time>[^\]]*)\] "(?P<request>[^"\\]*(?:\\.[^"\\]*)*)" \d{3} \S+'
    r'(?: "[^"\\]*(?:\\.[^"\\]*)*" "(?P<agent>[^"\\]*(?:\\.[^"\\]*)*)")?'
)
_ABSENT: Final = (None, "", "-")
"""How servers write what they do not know."""
_CLIENT: Final = ("client", "remote_addr", "client_ip")
_PATH: Final = ("path", "uri", "request_uri")
_METHOD: Final = ("method", "request_method")
_TIME: Final = ("time", "timestamp", "@timestamp", "time_iso8601", "ts")


class LogLineError(ValueError):
    """A line is no request; the message says what is wrong with which value, and what was expected."""


class Recorded(NamedTuple):
    """A request that was made."""

    request: Request
    at_us: int | None
    """When, in microseconds since the epoch; None when the line does not say."""


class Unreadable(NamedTuple):
    line: int
    """Its number, from 1."""
    why: str


def read_log(lines: Iterable[str], host: str) -> Iterator[Recorded | Unreadable]:
    """The requests of a log, those of lines that name no host being for `host`. Empty lines are nothing."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield read_log_line(line, host)
            except LogLineError as error:
                yield Unreadable(number, str(error))


def read_log_line(line: str, host: str) -> Recorded:
    """One line. Raises `LogLineError`."""
    line = line.strip()
    if len(line) > LINE_LENGTH_MAX:
        raise LogLineError(f"{len(line)} characters long; at most {LINE_LENGTH_MAX} are read")
    return _from_json(line, host) if line.startswith("{") else _from_common(line, host)


def _from_common(line: str, host: str) -> Recorded:
    matched = _COMMON.match(line)
    if matched is None:
        raise LogLineError(f"{excerpt(line)} is neither in the common or combined log format nor a JSON object")
    method, _, rest = matched["request"].partition(" ")
    path = rest.partition(" ")[0]
    if not path:
        raise LogLineError(f"the request {excerpt(matched['request'])} has no method and path")
    try:
        at_us = int(datetime.strptime(matched["time"], "%d/%b/%Y:%H:%M:%S %z").timestamp()) * SECOND
    except (ValueError, OverflowError):
        raise LogLineError(
            f"{excerpt(matched['time'])} is not a time; expected one like 10/Oct/2026:13:55:36 +0000"
        ) from None
    agent = matched["agent"]
    headers = () if agent in _ABSENT else (("user-agent", agent),)
    return Recorded(Request(_client(matched["client"], "the client"), host, path, _method(method), headers), at_us)


def _from_json(line: str, host: str) -> Recorded:
    """May have client, host, path, method, headers (an object), country, continent, asn, latitude and longitude, port,
    sni and time; or names that servers usually give these."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LogLineError(f"{excerpt(line)} is not JSON: {error}") from None
    assert isinstance(entry, dict), "it begins with a brace"

    def found(*names: str) -> tuple[str, Any]:
        return next(((name, entry[name]) for name in names if entry.get(name) not in _ABSENT), (names[0], None))

    def text(*names: str) -> str:
        name, value = found(*names)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise LogLineError(f"{name} is {excerpt(json.dumps(value))}; a text is needed there")
        return value

    def number(name: str, most: int) -> int:
        value = found(name)[1]
        if value is None:
            return 0
        digits = str(value) if type(value) in (int, str) else ""
        if not re.fullmatch(r"[0-9]{1,10}", digits) or int(digits) > most:
            raise LogLineError(f"{name} is {excerpt(json.dumps(value))}; a whole number up to {most} is needed there")
        return int(digits)

    def place(name: str, read: Any) -> str:
        word = text(name)
        try:
            return str(read(word)) if word else ""
        except BadValueError as error:
            raise LogLineError(f"{name}: {error.message}; expected {error.expected}") from None

    path, sni, headers = text(*_PATH), text("sni"), _headers(entry.get("headers"))
    if not path and not sni:
        raise LogLineError(f"there is no path; expected one of: {', '.join(_PATH)}")
    client = text(*_CLIENT)
    if not client:
        raise LogLineError(f"there is no client; expected one of: {', '.join(_CLIENT)}")
    request = Request(
        client=_client(client, found(*_CLIENT)[0]),
        host=text("host") or host or sni,
        path=path or "/",
        method=_method(text(*_METHOD) or "GET"),
        headers=headers,
        country=place("country", read_country),
        continent=place("continent", read_continent),
        asn=number("asn", 4_294_967_295),
        upgrade=upgrade_of(headers),
        port=number("port", 65_535),
        sni=sni,
        location=_location(found("latitude")[1], found("longitude")[1]),
    )
    return Recorded(request, _json_time(*found(*_TIME)))


def _location(latitude: object, longitude: object) -> int:
    """Of degrees, as numbers or as texts."""
    if latitude is None and longitude is None:
        return 0
    try:
        return location_at(*read_place(f"{latitude} {longitude}"))
    except BadValueError as error:
        raise LogLineError(f"latitude and longitude: {error.message}; expected {error.expected}") from None


def _client(text: str, what: str) -> str:
    if read_client(text) is None:
        raise LogLineError(f"{what} {excerpt(text)} is not an address; log addresses, not names")
    return text


def _method(text: str) -> str:
    try:
        return read_method(text)
    except BadValueError as error:
        raise LogLineError(f"{error.message}; expected {error.expected}") from None


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    """An object of texts, or of lists of texts."""
    if value is None:
        return ()
    if isinstance(value, dict):
        pairs = [(name.lower(), said) for name, given in value.items() for said in _listed(given)]
        if all(isinstance(said, str) for _, said in pairs):
            return tuple(pairs)
    raise LogLineError(f"headers are {excerpt(json.dumps(value))}; an object of texts is needed there")


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _json_time(name: str, value: Any) -> int | None:
    """ISO 8601 with an offset, or seconds since the epoch."""
    if value is None:
        return None
    try:
        if type(value) in (int, float):
            return read_moment(datetime.fromtimestamp(value, UTC).isoformat())
        return read_moment(value if isinstance(value, str) else "")
    except (ValueError, OverflowError, OSError):
        raise LogLineError(
            f"{name} is {excerpt(json.dumps(value))}; "
            "expected ISO 8601 with an offset, or seconds since 1970, of the years 1970 to 2199"
        ) from None
