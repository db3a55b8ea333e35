"""One policy that uses the whole language, many states of the world, and requests that tell all of it apart; with what
the judge says of each. Always the same."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from lattice.types import SECOND, Endpoint, Level
from router.decision.decision_bytes import decision_bytes
from router.decision.layout import SitePlace, nearest_to_site
from router.decision.program import Program, compile_policy
from router.decision.reference import interpret
from router.decision.request import Request
from router.decision.wasm.abi import request_bytes, view_bytes
from router.policy import parse
from tests.router.policy.policy_strategies import endpoints_of
from tests.router.policy.rule_strategies import some_requests

POLICY = """edition 1
region fra { at 50.11 8.68 endpoint 192.0.2.1:443 weight 3 endpoint 192.0.2.11:443 endpoint 192.0.2.12:443
  endpoint 192.0.2.13:443 capacity 4000rps avoid during "2027-03-28 01:00 to 2027-03-28 05:00 Europe/Berlin" drain 12h }
region ams { at 52.37 4.90 endpoint 192.0.2.2:443 endpoint [2001:db8::2]:443 drain 12h }
region iad { at 38.94 -77.45 endpoint 192.0.2.3:443 drain 12h avoid during "Sun 00:00-24:00 Australia/Lord_Howe" }
region gru { at -23.43 -46.47 endpoint 192.0.2.4:443 drain 12h health far }
region nrt { at 35.76 140.39 endpoint 192.0.2.5:443 endpoint 192.0.2.5:8443 drain 12h }
health far { unknown as down }
group gdpr { fra, ams }
group rest { iad, gru, nrt }
zone eu { at 50 9 10.0.0.0/8 10.1.3.0/24 country DE }
zone office { 10.1.2.0/24 2001:db8:1::/48 asn 64500 }
zone asia { 192.0.2.128/25 continent AS country JP }
route api for "a.example" "*.b.example" path "/a/**" {
  rule blocked { when method in PUT or header("x-tenant") in "" deny 403 "not \\ here" }
  rule residency {
    when country in DE or (zone in eu and not header("x-tenant") in "us")
    primary nearest(1) of gdpr  secondary any of gdpr  otherwise deny 503 "no EU region" }
  rule asked { when query("q") in "1", "a b", "/", "é�" and not query("p") present primary nrt, gru secondary any }
  rule seven { when cookie("uid") in "7" and asn in 64500 primary gru secondary any }
  rule early { during "02:00-02:30 Europe/Berlin" during "Thu 06:00-06:00 America/St_Johns" when method in POST
    primary nrt secondary any }
  rule night { when path in "/a/*/c/**", "/a/b" and method in GET, POST during "Mon-Fri 22:00-06:00 Europe/Berlin"
    primary iad weight 80, gru weight 20, ams weight 5 }
  rule canary { share 40% by cookie("uid") when continent in AS or cookie("uid") present
    primary gru secondary iad, nrt }
  rule sockets { when upgrade in websocket
    primary nearest 3 secondary any stick by jwt("sub"), cookie("sid"), ip(24) for 12h }
  zone asia { primary nrt secondary nearest 2 }
  primary nearest
  secondary nearest 2
  tier 3 any
  spill above 50%
  panic below 50%
  retry 2 budget 10% methods GET, HEAD
  timeout connect 1s total 30s
}
route ports for "*" path "/*/b" {
  rule database { when port in 5432 or sni in "*.b.example" deny 451 }
  rule named { when host in "x.b.example", "[2001:db8::9]" and asn in 64500, 64501
    primary any of rest stick by path(1) for 1h }
  zone asia { primary nrt secondary nearest 2 otherwise deny 503 }
  primary nearest of rest  secondary any to client  otherwise serve primary
}
route kelvin for "k.test" { primary nearest secondary any }
route rest for "*.example" "192.0.2.9" "[2001:db8::9]" {
  primary nearest 2 to client secondary any stick by header("x-tenant"), ip(16) for 1h otherwise deny 503
}
"""


CLIENTS = (
    *("10.1.2.0", "10.1.3.0", "10.0.0.0", "9.255.255.255", "4294967306.1.2.3", "010.1.2.3", "2001:db8:1::", "1::2:3:4"),
    *("2001:db8:1:ffff::", "2001:db8:0:ffff::9", "::ffff:10.1.2.9", "2001:db8:1:0:0:0:0:0", "10.1.2.3.4", "10.1.2"),
)
QUERIES = (
    *("q=a+b", "q=%C3%a9%E2%82", "q=%C3%A9%ff&p", "x&q=%2f", "q=%e9%82&p=", "q=%C3%A9%E2x", "q=1&p", "q=a%20b"),
    *("q", "=&q=1", "q=%C3%A9%E2%82%"),
)
COOKIES = ("uid=7\u00a0; a=1", "a;\u2003uid=7", 'uid="7"', "uid =7", "uid=70", "sid=s1; uid=9", "uid=", "uid")
TOKENS = (
    *('{"sub":"a"}', '{"sub":1}', '{"sub":1.5}', '{"sub":1e5}', '{"sub":"\\u00e9\\n"}', '{"sub":"a","sub":null}'),
    *('{"sub":"a","b":[{"c":"}"}]}', '{"sub":"a"', '["sub"]', '{"sub":"ab"}', '{"sub":"abc"} ', '{"sub":"x","b":01}'),
)
CLOCKS = (1_805_000_000, 1_824_940_800, 1_824_944_400, 1_824_948_000, 1_806_192_000, 1_806_195_600, 1_806_013_800)
"""About changes of clocks, in 2027 (31 October and 28 March), and a Thursday night."""


@dataclass(frozen=True, slots=True)
class Case:
    """A view and what follows from it: requests with the bytes that answer them."""

    view: bytes
    asked: tuple[tuple[bytes, bytes], ...]
    plain: dict[str, Any]
    """The same for other languages, as JSON takes it."""


def program() -> Program:
    return compile_policy(parse(POLICY))


@cache
def cases(count: int = 50, requests: int = 80) -> tuple[Case, ...]:
    return tuple(_cases(program(), Random(5), count, requests))


def _cases(compiled: Program, random: Random, count: int, requests: int) -> Iterator[Case]:
    endpoints = endpoints_of(compiled.policy)
    for number in range(count):
        site = SitePlace("here", random.randint(-90, 90) * 1_000_000, random.randint(-180, 180) * 1_000_000)
        likely = [Level.DOWN] if number % 5 == 0 else list(Level)
        levels = {name: random.choice(likely) for name in compiled.regions if random.random() < 0.9 or number % 5 == 0}
        saturation = {name: random.choice((0, 400_000, 700_000, 1_000_000)) for name in compiled.regions}
        away = {name: random.choice((0, 0, 300_000, 1_000_000)) for name in compiled.regions}
        now = (random.choice(CLOCKS) + random.randint(-4_000, 4_000)) * SECOND
        asked, plain = [], []
        for usual in some_requests(random, requests):
            request = _peculiar(usual, random)
            ejected: Set[Endpoint] = {each for each in endpoints if random.random() < 0.2}
            judged = interpret(compiled.policy, levels, site, now, saturation, request, ejected, away_ppm=away)
            asked.append((request_bytes(request, ejected), decision_bytes(judged)))
            told = {"request": request._asdict(), "ejected": sorted(ejected), "expected": asked[-1][1].decode("ascii")}
            plain.append(told)
        regions = [
            {
                "name": name,
                "level": levels.get(name, Level.UNKNOWN).name,
                "saturationPpm": saturation.get(name, 0),
                "awayPpm": away.get(name, 0),
            }
            for name in nearest_to_site(compiled, site, {})
        ]
        yield Case(
            view_bytes(compiled, levels, site, now, saturation, away_ppm=away),
            tuple(asked),
            {"view": {"nowMicros": now, "regions": regions}, "asked": plain},
        )


def _peculiar(request: Request, random: Random) -> Request:
    """The same, here and there, with what only careful readers read alike."""
    if random.random() < 0.6:
        request = request._replace(host=random.choice(("a.example", "x.b.example", "\u212a.test")))
    if random.random() < 0.3:
        request = request._replace(client=random.choice(CLIENTS))
    if random.random() < 0.3:
        request = request._replace(path=f"/a/x?{random.choice(QUERIES)}")
    if random.random() < 0.3:
        request = request._replace(headers=(("cookie", random.choice(COOKIES)),))
    elif random.random() < 0.3:
        payload = urlsafe_b64encode(random.choice(TOKENS).encode()).decode().rstrip("=")
        request = request._replace(headers=(("authorization", f"Bearer e30.{payload}.x"),), upgrade="websocket")
    return request
