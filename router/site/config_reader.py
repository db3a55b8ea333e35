"""Reading a table of settings so that every mistake in it is reported at once, each with its key, value and remedy.

A `Section` is one table. Each key is taken with a *reading*: a function from the raw value to ours that raises
`NotExpected` with what it wanted. A mistake is noted and a stand-in returned, so that the reading goes on; whoever
reads the whole raises `ConfigError` at the end if anything was noted. Keys that nobody took are mistakes too.

Pure: text and mappings in, values out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import TypeVar

from lattice.types import Endpoint

T = TypeVar("T")
D = TypeVar("D")

VALUE_SHOWN_CHARS_MAX = 80
"""A wrong value is quoted up to here: enough to recognise it, not enough to bury the message."""

_DURATION = re.compile(r"(\d{1,9})(?:\.(\d{1,6}))?(us|ms|s|m|h)")
_SIZE = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)")
_UNIT_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_UNIT_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")


class NotExpected(ValueError):  # noqa: N818  (never leaves this module's callers: it becomes a Problem)
    """A value is not what was expected; `expected` says what was, `hint` how to mend it."""

    def __init__(self, expected: str, hint: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration."""

    key: str
    """The path of the key, as `gossip.seeds[1]`; empty when the file as a whole is at fault."""
    value: str | None
    """What stands there, quoted as in the file; None when nothing does."""
    expected: str
    hint: str = ""

    def render(self) -> str:
        place = self.key if self.value is None else f"{self.key} = {self.value}"
        text = f"{place}: {self.expected}" if place else self.expected
        return f"{text}; {self.hint}" if self.hint else text


class ConfigError(Exception):
    """A configuration cannot be used; nothing was started. Shown to people as it is: one line per problem."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = problems
        lines = [f"{source}: {problem.render()}" for problem in problems]
        super().__init__("\n".join(lines))


class Section:
    """One table being read. `name` is its path, empty for the top."""

    def __init__(self, name: str, table: object, problems: list[Problem]) -> None:
        self._name = name
        self._problems = problems
        self._asked: list[str] = []
        self._table: Mapping[str, object] = {}
        if isinstance(table, Mapping):
            self._table = table
        else:
            problems.append(Problem(name, shown(table), "expected a table", f"write [{name}] on a line of its own"))

    def section(self, key: str) -> Section:
        """The table under `key`; an absent one reads as empty."""
        self._asked.append(key)
        return Section(self._path(key), self._table.get(key, {}), self._problems)

    def has(self, key: str) -> bool:
        return key in self._table

    def take(self, key: str, reading: Callable[[object], T], default: D) -> T | D:
        """The value of `key`, or `default` when it is absent or wrong (a wrong one is noted)."""
        self._asked.append(key)
        if key not in self._table:
            return default
        value = self._table[key]
        try:
            return reading(value)
        except NotExpected as wrong:
            self._problems.append(Problem(self._path(key), shown(value), f"expected {wrong.expected}", wrong.hint))
            return default

    def require(self, key: str, reading: Callable[[object], T], stand_in: T) -> T:
        """As `take`, and its absence is noted too."""
        if key not in self._table:
            self.note(key, "is missing: expected " + _expected_by(reading))
        return self.take(key, reading, stand_in)

    def take_each(self, key: str, reading: Callable[[object], T], default: tuple[T, ...]) -> tuple[T, ...]:
        """An array, every wrong element noted under its own index. A single value is not an array of one."""
        self._asked.append(key)
        if key not in self._table:
            return default
        value = self._table[key]
        if not isinstance(value, list):
            self._problems.append(
                Problem(self._path(key), shown(value), "expected an array", f"write {key} = [{shown(value)}]")
            )
            return default
        taken: list[T] = []
        for index, element in enumerate(value):
            try:
                taken.append(reading(element))
            except NotExpected as wrong:
                path = f"{self._path(key)}[{index}]"
                self._problems.append(Problem(path, shown(element), f"expected {wrong.expected}", wrong.hint))
        return tuple(taken)

    def take_sections(self, key: str) -> list[Section]:
        """An array of tables (`[[key]]`); an absent one reads as empty."""
        self._asked.append(key)
        value = self._table.get(key, [])
        if not isinstance(value, list):
            self._problems.append(
                Problem(self._path(key), shown(value), "expected an array of tables", f"write [[{self._path(key)}]]")
            )
            return []
        return [Section(f"{self._path(key)}[{index}]", table, self._problems) for index, table in enumerate(value)]

    def note(self, key: str, expected: str, hint: str = "") -> None:
        """Note a mistake that only shows when keys are seen together."""
        self._problems.append(Problem(self._path(key), None, expected, hint))

    def close(self) -> None:
        """Note every key that nothing asked for, with the nearest one that something did."""
        for key in self._table:
            if key in self._asked:
                continue
            near = get_close_matches(key, self._asked, n=1)
            hint = f"did you mean {near[0]}?" if near else "known here: " + ", ".join(sorted(self._asked))
            self._problems.append(Problem(self._path(key), None, "unknown key", hint))

    def _path(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key


# --- readings


def text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise NotExpected("printable text in quotes")
    return value


def truth(value: object) -> bool:
    if not isinstance(value, bool):
        hint = f"without quotes: {value.lower()}" if isinstance(value, str) and value.lower() in _TRUTHS else ""
        raise NotExpected("true or false", hint)
    return value


_TRUTHS = ("true", "false")


def site_name(value: object) -> str:
    """A name that is safe in a header, a file name and an mDNS label."""
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9-]{1,32}", value):
        lowered = re.sub(r"[^a-z0-9-]+", "-", value.lower()).strip("-")[:32] if isinstance(value, str) else ""
        raise NotExpected("1 to 32 of a-z, 0-9 and -", f'for example "{lowered}"' if lowered else "")
    return value


def place(value: object) -> tuple[int, int]:
    """ "latitude longitude" in degrees -> integers in millionths of a degree."""
    expected = 'latitude and longitude in degrees, as "52.37 4.90"'
    if not isinstance(value, str):
        raise NotExpected(expected)
    words = value.split()
    if len(words) != 2:
        raise NotExpected(expected, "no comma between them" if "," in value else "")
    try:
        latitude, longitude = (Decimal(word) for word in words)
    except InvalidOperation:
        raise NotExpected(expected, "no comma between them" if "," in value else "") from None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):  # also refuses NaN and infinity
        raise NotExpected(expected, "latitude is -90 to 90 and comes first, longitude -180 to 180")
    return int((latitude * 1_000_000).to_integral_value()), int((longitude * 1_000_000).to_integral_value())


def duration(least_us: int, most_us: int) -> Callable[[object], int]:
    """Text with a unit, as "250ms" -> microseconds, within both bounds."""

    def reading(value: object) -> int:
        bounds = f"from {duration_text(least_us)} to {duration_text(most_us)}"
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            bare = isinstance(value, int | float) and not isinstance(value, bool)
            hint = f'in quotes and with a unit, as "{value}s"' if bare else "units: us, ms, s, m, h"
            raise NotExpected(f'a duration {bounds}, as "250ms"', hint)
        whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3)
        scale: int = 10 ** len(fraction)
        duration_us = int(whole + fraction) * _UNIT_US[unit] // scale
        if not least_us <= duration_us <= most_us:
            raise NotExpected(f"a duration {bounds}")
        return duration_us

    return reading


def duration_text(duration_us: int) -> str:
    """The shortest exact text of a duration, as `250ms`."""
    for unit in ("h", "m", "s", "ms"):
        if duration_us and duration_us % _UNIT_US[unit] == 0:
            return f"{duration_us // _UNIT_US[unit]}{unit}"
    return f"{duration_us}us"


def size(least: int, most: int) -> Callable[[object], int]:
    """Text with a unit, as "64MiB" -> bytes, within both bounds."""

    def reading(value: object) -> int:
        bounds = f"from {size_text(least)} to {size_text(most)}"
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            bare = isinstance(value, int) and not isinstance(value, bool)
            hint = f'in quotes and with a unit, as "{value}MiB"' if bare else "units: B, KiB, MiB, GiB"
            raise NotExpected(f'a size {bounds}, as "64MiB"', hint)
        count = int(match.group(1)) * _UNIT_BYTES[match.group(2)]
        if not least <= count <= most:
            raise NotExpected(f"a size {bounds}")
        return count

    return reading


def size_text(count: int) -> str:
    """The shortest exact text of a number of bytes, as `64MiB`."""
    for unit in ("GiB", "MiB", "KiB"):
        if count and count % _UNIT_BYTES[unit] == 0:
            return f"{count // _UNIT_BYTES[unit]}{unit}"
    return f"{count}B"


def numeric_address(value: object) -> str:
    """An IPv4 or IPv6 address in digits, in its canonical form."""
    try:
        if isinstance(value, str):
            return str(ipaddress.ip_address(value))
    except ValueError:
        pass
    raise NotExpected("a numeric IPv4 or IPv6 address")


def network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """An address block in CIDR notation, or one address."""
    try:
        if isinstance(value, str):
            return ipaddress.ip_network(value)
    except ValueError as error:
        raise NotExpected('an address block, as "169.254.0.0/16" or "fd00::/8"', str(error)) from None
    raise NotExpected('an address block, as "169.254.0.0/16" or "fd00::/8"')


def listen_endpoint(value: object) -> Endpoint:
    """A numeric address and a port; port 0 lets the kernel choose."""
    expected = 'address:port with a numeric address, as "127.0.0.1:8080" or "[::1]:8080"'
    host, port = _host_and_port(value, expected, port_min=0)
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        hint = f'"127.0.0.1:{port}"?' if host == "localhost" else f'"0.0.0.0:{port}" is every IPv4 address'
        raise NotExpected(expected, hint) from None


def remote_endpoint(value: object) -> Endpoint:
    """A DNS name or numeric address, and a port: somebody else's, so never 0."""
    expected = 'host:port, as "10.0.0.2:7946", "[fd00::2]:7946" or "edge.example.com:7946"'
    host, port = _host_and_port(value, expected, port_min=1)
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        if not _DNS_NAME.fullmatch(host) or host.replace(".", "").isdigit():
            raise NotExpected(expected) from None
        return host.lower(), port


def endpoint_text(endpoint: Endpoint) -> str:
    """The form that `listen_endpoint` reads: brackets around IPv6."""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def hex_bytes(size: int, what: str) -> Callable[[object], bytes]:
    """`size` bytes in hexadecimal; `what` names them in the message."""

    def reading(value: object) -> bytes:
        expected = f"{what}: {size * 2} hexadecimal digits"
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]*", value):
            raise NotExpected(expected)
        if len(value) != size * 2:
            raise NotExpected(expected, f"there are {len(value)}")
        return bytes.fromhex(value)

    return reading


def shown(value: object) -> str:
    """A value as it would stand in the file, cut to a length a message can carry."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        quoted = '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in value) + '"'
    else:
        quoted = repr(value)
    return quoted if len(quoted) <= VALUE_SHOWN_CHARS_MAX else quoted[: VALUE_SHOWN_CHARS_MAX - 3] + "..."


def _host_and_port(value: object, expected: str, port_min: int) -> tuple[str, int]:
    if not isinstance(value, str):
        raise NotExpected(expected)
    match = re.fullmatch(r"\[([0-9A-Fa-f:.%a-z]+)\]:(\d{1,5})|([^\[\]:\s]+):(\d{1,5})", value)
    if match is None:
        if value.count(":") > 1 and "[" not in value:
            raise NotExpected(expected, "an IPv6 address stands in brackets")
        raise NotExpected(expected, "the port is missing" if value and ":" not in value else "")
    host, port = match.group(1) or match.group(3), int(match.group(2) or match.group(4))
    if not port_min <= port <= 65_535:
        raise NotExpected(expected, f"a port is {port_min} to 65535")
    return host, port


def _expected_by(reading: Callable[[object], T]) -> str:
    """What a reading wants, as it says itself when given nothing."""
    try:
        reading(None)
    except NotExpected as wrong:
        return wrong.expected
    raise AssertionError("a required key's reading accepts nothing at all")
