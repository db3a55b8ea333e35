"""The words of a policy that mean something by themselves: numbers, durations, addresses, names, patterns.

Each function reads one word and returns what it means, or raises `BadValueError` with everything a diagnostic needs but
the place. Only ASCII digits are digits, and lengths are bounded before `int` sees them.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from lattice.types import MILLISECOND, SECOND, Level
from router.policy.errors import Said, did_you_mean, excerpt, said
from router.policy.paths import PathPattern
from router.policy.probe import ProbeKind
from router.policy.syntax import Network

NAME_LENGTH_MAX = 63
"""A DNS label's length (RFC 1035 2.3.4): names of regions may become labels of metrics and hosts."""
HOST_LENGTH_MAX = 253
PATH_LENGTH_MAX = 1_024
DURATION_US_MAX = 3_600 * SECOND
LATITUDE_E6_MAX = 90_000_000
LONGITUDE_E6_MAX = 180_000_000
_MAPPED = IPv6Network("::ffff:0:0/96")
_UNITS = {"us": 1, "ms": MILLISECOND, "s": SECOND, "m": 60 * SECOND, "h": 3_600 * SECOND}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
_COORDINATE = re.compile(r"([+-]?)([0-9]{1,3})(?:\.([0-9]{1,18}))?\Z")
_DURATION = re.compile(r"([0-9]{1,12})(us|ms|s|m|h)\Z")
_PERCENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,4}))?%\Z")
_COUNT = re.compile(r"[0-9]{1,10}\Z")
_ENDPOINT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+):([0-9]{1,5})\Z")
_CIDR = re.compile(r"([^/]+)/([0-9]{1,3})\Z")
REASON_LENGTH_MAX = 100
CONTINENTS = ("AF", "AN", "AS", "EU", "NA", "OC", "SA")
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}\Z")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")


class BadValueError(Exception):
    """A word that does not mean what its place needs: the author's to mend."""

    def __init__(self, code: str, message: str, expected: str, hint: Said = "") -> None:
        super().__init__(message)
        self.code, self.message, self.expected, self.remedy = code, message, expected, hint

    @property
    def hint(self) -> str:
        return said(self.remedy)


def read_name(word: str) -> str:
    if _NAME.match(word):
        return word
    near = re.sub(r"[^a-z0-9_-]", "-", word.casefold())[:NAME_LENGTH_MAX]
    raise BadValueError(
        "E103",
        f"{excerpt(word)} cannot be a name",
        f"a lower-case letter, then letters, digits, '-' and '_', at most {NAME_LENGTH_MAX} in all",
        f"write {near}" if _NAME.match(near) else "",
    )


def is_name(word: str) -> bool:
    return _NAME.match(word) is not None


def read_coordinate(word: str, e6_max: int, what: str) -> int:
    """Degrees as an integer of millionths; digits past the sixth (11 cm) are dropped."""
    example = "50.11" if what == "latitude" else "8.68"
    expected = f"a {what} in degrees from -{e6_max // 1_000_000} to {e6_max // 1_000_000}, like {example}"
    matched = _COORDINATE.match(word)
    if not matched:
        hint = "drop the semicolon: statements need none" if word.endswith(";") else ""
        if word[-1:] and word[-1] in "NSEWnsew":
            hint = "south and west are negative numbers: 33.87S is -33.87"
        raise BadValueError("E104", f"{excerpt(word)} is not a {what}", expected, hint)
    sign, whole, fraction = matched.groups()
    e6 = int(whole) * 1_000_000 + int(((fraction or "") + "000000")[:6])
    if e6 > e6_max:
        hint = "latitude comes first, then longitude" if what == "latitude" and e6 <= LONGITUDE_E6_MAX else ""
        raise BadValueError("E105", f"{what} {excerpt(word)} is out of range", expected, hint)
    return -e6 if sign == "-" else e6


def read_place(text: str) -> tuple[int, int]:
    """ "LAT LON", or with a comma between, in millionths of a degree."""
    latitude, _, longitude = text.replace(",", " ").strip().partition(" ")
    return (
        read_coordinate(latitude, LATITUDE_E6_MAX, "latitude"),
        read_coordinate(longitude.strip(), LONGITUDE_E6_MAX, "longitude"),
    )


def read_duration(word: str, least_us: int = MILLISECOND, most_us: int = DURATION_US_MAX) -> int:
    """A duration in microseconds, at least `least_us` and at most `most_us`."""
    most = write_duration(most_us)
    expected = f"a whole number and a unit (us, ms, s, m, h), from {write_duration(least_us)} to {most}, like 250ms"
    matched = _DURATION.match(word)
    if not matched:
        hint = f"write {word}ms, or {word}s" if _COUNT.match(word) else ""
        if re.match(r"[0-9]{1,6}\.[0-9]{1,3}s\Z", word):
            whole, _, fraction = word[:-1].partition(".")
            hint = f"write {int(whole) * 1_000 + int((fraction + '000')[:3])}ms"
        raise BadValueError("E110", f"{excerpt(word)} is not a duration", expected, hint)
    duration_us = int(matched[1]) * _UNITS[matched[2]]
    if not least_us <= duration_us <= most_us:
        raise BadValueError("E110", f"the duration {excerpt(word)} is out of range", expected)
    return duration_us


def read_percent(word: str) -> int:
    """A percentage as millionths."""
    expected = "a percentage above 0% and up to 100%, like 20% or 0.5%"
    matched = _PERCENT.match(word)
    if not matched:
        raise BadValueError(
            "E111",
            f"{excerpt(word)} is not a percentage",
            expected,
            f"write {word}%" if _PERCENT.match(word + "%") else "",
        )
    ppm = int(matched[1]) * 10_000 + int(((matched[2] or "") + "0000")[:4])
    if not 0 < ppm <= 1_000_000:
        raise BadValueError("E111", f"the percentage {excerpt(word)} is out of range", expected)
    return ppm


def read_count(word: str, most: int, what: str) -> int:
    if not _COUNT.match(word) or not 1 <= int(word) <= most:
        raise BadValueError(
            "E112", f"{excerpt(word)} is not a number of {what}", f"a number of {what} from 1 to {most}"
        )
    return int(word)


def read_status(word: str) -> int:
    if not re.match(r"[45][0-9][0-9]\Z", word):
        raise BadValueError(
            "E113", f"{excerpt(word)} is not a status to deny with", "an HTTP error status, 400 to 599", "write 503"
        )
    return int(word)


def read_number(word: str, least: int, most: int, code: str, what: str, example: str) -> int:
    """A whole number within bounds; `what` names it in the diagnostic."""
    if not _COUNT.match(word) or not least <= int(word) <= most:
        raise BadValueError(code, f"{excerpt(word)} is not {what}", f"{what}, {least} to {most}, like {example}")
    return int(word)


def read_rate(word: str) -> int:
    """Requests a second."""
    matched = re.match(r"([0-9]{1,9})rps\Z", word)
    if not matched or int(matched[1]) == 0:
        hint = f"write {word}rps" if _COUNT.match(word) and int(word) else ""
        raise BadValueError("E124", f"{excerpt(word)} is not a rate", "requests a second, like 4000rps", hint)
    return int(matched[1])


def read_asn(word: str) -> int:
    return read_number(word, 1, 4_294_967_295, "E122", "an AS number", "64500")


def read_country(word: str) -> str:
    if not re.match(r"[A-Z]{2}\Z", word):
        hint = f"write {word.upper()}" if re.match(r"[A-Za-z]{2}\Z", word) else ""
        raise BadValueError(
            "E120", f"{excerpt(word)} is not a country", "a country's two capital letters, like DE", hint
        )
    return word


def read_continent(word: str) -> str:
    if word not in CONTINENTS:
        hint = f"write {word.upper()}" if word.upper() in CONTINENTS else ""
        raise BadValueError(
            "E121", f"{excerpt(word)} is not a continent", f"a continent: {', '.join(CONTINENTS)}", hint
        )
    return word


def read_method(word: str) -> str:
    if not _METHOD.match(word):
        hint = f"write {word.upper()}" if _METHOD.match(word.upper()) else ""
        raise BadValueError("E126", f"{excerpt(word)} is not a method", "an HTTP method in capitals, like GET", hint)
    return word


def read_token(word: str, what: str) -> str:
    """The name of a header, cookie, query parameter or claim."""
    if not _TOKEN.match(word):
        raise BadValueError("E127", f"{excerpt(word)} is not the name of a {what}", f'the name of a {what}, like "uid"')
    return word


def read_reason(word: str) -> str:
    """Why a request is refused; it goes into a header."""
    if not 0 < len(word) <= REASON_LENGTH_MAX or not (word.isascii() and word.isprintable()):
        raise BadValueError(
            "E130",
            f"{excerpt(word)} cannot be sent as a reason",
            f"printable ASCII, at most {REASON_LENGTH_MAX} characters: it goes into a header",
        )
    return word


def read_level(word: str) -> Level:
    names = {level.name.lower(): level for level in Level} | {"up": Level.HEALTHY}
    level = names.get(word.lower())
    if level is None:
        raise BadValueError(
            "E132", f"{excerpt(word)} is not a level", f"a level: {', '.join(names)}", did_you_mean(word, names)
        )
    return level


def read_unknown(word: str) -> Level:
    meaning = {"healthy": Level.HEALTHY, "down": Level.DOWN}.get(word)
    if meaning is None:
        raise BadValueError(
            "E117",
            f"unknown cannot be taken as {excerpt(word)}",
            "healthy or down",
            did_you_mean(word, ("healthy", "down")),
        )
    return meaning


def read_endpoint(word: str) -> tuple[str, int]:
    """A numeric address in canonical form, and a port; IPv4 written as IPv4-mapped IPv6 becomes IPv4."""
    expected = "a numeric address and a port, like 192.0.2.7:443 or [2001:db8::7]:443"
    matched = _ENDPOINT.match(word)
    if not matched:
        address = _address(word) or _address(word.strip("[]"))
        hint = ""
        if address:
            hint = f"add a port: {address}:80" if address.version == 4 else f"add brackets and a port: [{address}]:80"
        elif word.count(":") > 1 and "[" not in word:
            hint = "put an IPv6 address in brackets"
        raise BadValueError("E106", f"{excerpt(word)} is not an endpoint", expected, hint)
    host, port = matched[1], int(matched[2])
    address = _address(host.strip("[]"))
    if address is None or (host[0] == "[") != (address.version == 6):
        hint = "host names are not looked up: write the numeric address" if re.search(r"[^0-9.:\[\]]", host) else ""
        if "%" in host:
            hint = "leave out the %: a scope id means something on one machine only"
        raise BadValueError("E106", f"{excerpt(host)} is not a numeric address", expected, hint)
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_unspecified or address.is_multicast:
        raise BadValueError("E106", f"nothing can be reached at {excerpt(host)}", "a unicast address")
    if not 1 <= port <= 65_535:
        raise BadValueError("E107", f"{port} is not a port", "a port from 1 to 65535")
    return str(address), port


def read_cidr(word: str) -> Network:
    """A block of addresses; IPv4 written as IPv4-mapped IPv6 becomes IPv4, as such clients are."""
    expected = "an address block, like 192.0.2.0/24 or 2001:db8::/32"
    matched = _CIDR.match(word)
    address = _address(matched[1] if matched else word)
    if matched is None or address is None:
        hint = ""
        if address is not None:
            hint = f"for this one address write {address}/{address.max_prefixlen}"
        elif word.strip(";") != word:
            hint = "drop the semicolon: blocks are separated by spaces"
        raise BadValueError("E108", f"{excerpt(word)} is not an address block", expected, hint)
    prefix = int(matched[2])
    if prefix > address.max_prefixlen:
        raise BadValueError(
            "E108",
            f"/{prefix} is longer than an IPv{address.version} address",
            f"a prefix from /0 to /{address.max_prefixlen}",
        )
    network = ip_network((address, prefix), strict=False)
    if network.network_address != address:
        raise BadValueError(
            "E109",
            f"{excerpt(word)} has bits set right of its prefix",
            "an address block whose host bits are zero",
            f"write {network}, or {address}/{address.max_prefixlen} for the one address",
        )
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None
        return ip_network((mapped, prefix - 96))
    return network


def read_host_pattern(word: str) -> str:
    """`*`, a host name, `*.` and a host name, or a numeric address; in lower case, without a trailing dot."""
    expected = 'a host like "shop.example.com", "*.example.com", or "*" for any'
    host = word.lower().removesuffix(".")
    name = host.removeprefix("*.")
    if host == "*":
        return host
    if word.startswith("[") and word.endswith("]") and (address := _address(word[1:-1])) and address.version == 6:
        # Python writes a mapped address in one way up to 3.12, and in another since: this is RFC 5952, part 5.
        return f"[::ffff:{address.ipv4_mapped}]" if address.ipv4_mapped else f"[{address}]"
    if 0 < len(host) <= HOST_LENGTH_MAX and all(_LABEL.match(label) for label in name.split(".")):
        return host
    hint = ""
    if "://" in word or "/" in word:
        hint = "write the host alone: no scheme, no path"
    elif ":" in word:
        hint = "leave the port out: a route is for every port"
    elif not word.isascii():
        hint = "write the name in its ASCII form (xn--...)"
    elif "*" in word:
        hint = 'the star stands only at the front, for one label or more: "*.example.com"'
    raise BadValueError("E114", f"{excerpt(word)} is not a host pattern", expected, hint)


def read_path_pattern(word: str) -> str:
    """An absolute path whose segments may be `*`, the last one `**`."""
    expected = 'an absolute path like "/cart", "/users/*/cart" or "/api/**"'
    hint = ""
    if len(word) > PATH_LENGTH_MAX:
        hint = f"at most {PATH_LENGTH_MAX} characters"
    elif not word.startswith("/"):
        hint = f"write /{word}" if word else "write /** for every path"
    elif not re.match(r"[!-~]+\Z", word) or "?" in word or "#" in word:
        hint = "a pattern is matched against the path alone, as it is sent: percent-encode, and leave out ? and #"
    elif not PathPattern.valid(word):
        hint = "* stands for one whole segment, ** for the rest of the path and only at its end"
    else:
        return word
    raise BadValueError("E115", f"{excerpt(word)} is not a path pattern", expected, hint)


def read_probe_path(word: str) -> str:
    if len(word) <= PATH_LENGTH_MAX and re.match(r"/[!-~]*\Z", word) and "#" not in word:
        return word
    raise BadValueError("E116", f"{excerpt(word)} is not a path to probe", 'an absolute path like "/healthz"')


def read_probe_kind(word: str) -> ProbeKind:
    names = {kind.value: kind for kind in ProbeKind}
    if word not in names:
        raise BadValueError(
            "E140", f"{excerpt(word)} is no kind of probe", f"a kind: {', '.join(names)}", did_you_mean(word, names)
        )
    return names[word]


def read_grpc_service(word: str) -> str:
    """ "" is the whole server (grpc.health.v1)."""
    if len(word) <= PATH_LENGTH_MAX and re.match(r"([A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*)?\Z", word):
        return word
    raise BadValueError("E116", f"{excerpt(word)} is not a gRPC service", 'a full name like "shop.v1.Cart", or ""')


def read_status_range(word: str) -> tuple[int, int]:
    """`204`, or `200-299`."""
    match = re.match(r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?\Z", word)
    if match is not None:
        first, last = int(match[1]), int(match[2] or match[1])
        if 200 <= first <= last <= 599:
            return first, last
    raise BadValueError("E141", f"{excerpt(word)} is no status to expect", "final statuses, like 204 or 200-299")


def write_duration(duration_us: int) -> str:
    """The shortest word that `read_duration` reads as `duration_us`."""
    if not duration_us:
        return "0s"
    sizes = ((unit, size) for unit, size in reversed(_UNITS.items()) if duration_us % size == 0 and duration_us >= size)
    unit, size = next(sizes, ("us", 1))
    return f"{duration_us // size}{unit}"


def write_percent(ppm: int) -> str:
    return f"{write_decimal(ppm, 4)}%"


def write_degrees(e6: int) -> str:
    return f"{'-' if e6 < 0 else ''}{write_decimal(abs(e6), 6)}"


def write_decimal(scaled: int, digits: int) -> str:
    """An integer of 10^-digits as people write it."""
    whole, fraction = divmod(scaled, 10**digits)
    return f"{whole}.{fraction:0{digits}d}".rstrip("0").rstrip(".")


def read_address(text: str) -> IPv4Address | IPv6Address | None:
    """A numeric address; None when it is not one."""
    return _address(text)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    if "%" in text:  # a scope id is local to one machine, and a policy is not
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None
