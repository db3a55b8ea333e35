"""`edgelattice policy fmt`, `test`, `diff`, `simulate`, `explain` and `compile`: a policy at work, on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

import click
import msgspec

from lattice.types import Endpoint, Level
from router.commands.failing import EXIT_FAILED, EXIT_USAGE, CommandError, complain
from router.commands.policy_files import compiled, policy_text
from router.decision.explanation import explain, plain_explanation
from router.decision.plan import RouteTable, SitePlace, plan
from router.decision.program import Program
from router.decision.request import Request
from router.decision.scenario_run import run_tests, users_of
from router.decision.traffic_study import Study, compare, read_log_line, simulate
from router.decision.wasm.image import ImageTooLargeError
from router.decision.wasm.module import policy_module
from router.policy import PolicyError, format_policy
from router.policy.json_form import to_json
from router.policy.values import LATITUDE_E6_MAX, LONGITUDE_E6_MAX, BadValueError, read_coordinate, read_level
from router.policy.windows import read_moment

_FILE = click.Path(path_type=Path, allow_dash=True)
_USERS = 2_000


@click.command("fmt")
@click.argument("file", type=_FILE)
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 1 when there is something to do.")
def fmt(file: Path, only_check: bool) -> int:
    """Lay a policy out, comments and all. With - it goes from standard input to standard output."""
    text = policy_text(file)
    try:
        done = format_policy(text, str(file))
    except PolicyError as error:
        click.echo(error.render(text), err=True)
        raise CommandError(f"{file}: has mistakes, so it was left as it is") from None
    if only_check:
        if done != text:
            complain(f"{file}: is not formatted; edgelattice policy fmt {file}")
        return EXIT_FAILED if done != text else 0
    if str(file) == "-":
        click.echo(done, nl=False)
    elif done != text:
        file.write_text(done, encoding="utf-8")
    return 0


@click.command("test")
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help='{"tests": n, "failed": [...]}')
def test(file: Path, as_json: bool) -> int:
    """Run the test blocks of a policy, on their virtual clock."""
    program = compiled(file)
    count, failed = 0, []
    for scenario, failures in run_tests(program):
        count += 1
        failed += failures
        if not as_json:
            click.echo(f"{'FAILED' if failures else 'ok    '} {scenario.name}")
            for one in failures:
                click.echo(f"       {file}:{one.span.line}:{one.span.column}: {one.message}")
    if as_json:
        listed = [{"test": f.test, "line": f.span.line, "column": f.span.column, "message": f.message} for f in failed]
        click.echo(msgspec.json.encode({"tests": count, "failed": listed}))
    return EXIT_FAILED if failed else 0


@click.command("diff")
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@click.option("--log", type=click.Path(path_type=Path), help="Recorded traffic; else users of every zone and route.")
@click.option("--host", default="", help="The host of log lines that name none.")
@click.option("--site", default="0 0", metavar="'LAT LON'", help="Where the deciding site is.", show_default=True)
@click.option("--max-moved", type=float, help="Exit status 1 when a greater share of users (per cent) moves.")
@click.option("--json", "as_json", is_flag=True)
def diff(
    before: Path, after: Path, log: Path | None, host: str, site: str, max_moved: float | None, as_json: bool
) -> int:
    """Say which users and requests a change of policy would move, and where, everything being healthy."""
    old, new = (_table(compiled(file), site, (), None) for file in (before, after))
    requests = _recorded(log, host) if log else _synthetic(new.program)
    study = compare(old, new, (request for request in requests if request is not None))
    _show(study, as_json, moves=True)
    share = 100 * len(study.users_moved) / max(1, len(study.users))
    return EXIT_FAILED if max_moved is not None and share > max_moved else 0


@click.command("simulate")
@click.argument("file", type=_FILE)
@click.option("--log", type=click.Path(path_type=Path), required=True, help="Common or combined format, or JSON lines.")
@click.option("--host", default="", help="The host of log lines that name none.")
@click.option("--site", default="0 0", metavar="'LAT LON'", help="Where the deciding site is.", show_default=True)
@click.option("--set", "levels", multiple=True, metavar="REGION=LEVEL", help="For example fra=down; may be repeated.")
@click.option("--time", "moment", metavar="ISO8601", help="When; now unless given.")
@click.option("--json", "as_json", is_flag=True)
def simulate_command(
    file: Path, log: Path, host: str, site: str, levels: tuple[str, ...], moment: str | None, as_json: bool
) -> None:
    """Say where a policy would send recorded traffic."""
    _show(simulate(_table(compiled(file), site, levels, moment), _recorded(log, host)), as_json, moves=False)


@click.command("explain")
@click.argument("file", type=_FILE)
@click.option("--client", default="", metavar="ADDRESS")
@click.option("--host", required=True)
@click.option("--path", default="/", show_default=True)
@click.option("--method", default="GET", show_default=True)
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="May be repeated.")
@click.option("--country", default="")
@click.option("--continent", default="")
@click.option("--asn", default=0)
@click.option("--site", default="0 0", metavar="'LAT LON'", help="Where the deciding site is.", show_default=True)
@click.option("--set", "levels", multiple=True, metavar="REGION=LEVEL", help="For example fra=down; may be repeated.")
@click.option("--time", "moment", metavar="ISO8601", help="When; now unless given.")
@click.option("--json", "as_json", is_flag=True)
def explain_command(
    file: Path,
    client: str,
    host: str,
    path: str,
    method: str,
    headers: tuple[str, ...],
    country: str,
    continent: str,
    asn: int,
    site: str,
    levels: tuple[str, ...],
    moment: str | None,
    as_json: bool,
) -> None:
    """Say which rule decides a request, what each tier keeps, and why."""
    table = _table(compiled(file), site, levels, moment)
    request = Request(client, host, path, method, read_headers(headers), country, continent, asn)
    show_explanation(table, request, as_json)


@click.command("compile")
@click.argument("file", type=_FILE)
@click.option("--target", type=click.Choice(["json", "wasm"]), default="json", show_default=True)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Where to; else standard output.")
def compile_command(file: Path, target: str, output: Path | None) -> None:
    """Write a policy in another form: JSON, field by field, or a WebAssembly module that decides as a node does.

    \b
        edgelattice policy compile shop.policy --output shop.json
        edgelattice policy compile shop.policy --target wasm --output shop.wasm
    """
    program = compiled(file)
    if target == "json":
        written = f"{to_json(program.policy)}\n".encode()
    elif output is None:
        raise CommandError("--target wasm: a module is no text; say where to with --output", EXIT_USAGE)
    else:
        try:
            written = policy_module(program)
        except ImageTooLargeError as error:
            raise CommandError(f"{file}: {error}") from None
    if output is None:
        click.echo(written, nl=False)
        return
    try:
        output.write_bytes(written)
    except OSError as error:
        raise CommandError(f"--output {output}: cannot be written: {(error.strerror or str(error)).lower()}") from None


def read_headers(lines: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """`NAME: VALUE`, as curl takes them."""
    found = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise CommandError(f"--header {line!r}: write NAME: VALUE", EXIT_USAGE)
        found.append((name.strip().lower(), value.strip()))
    return tuple(found)


def show_explanation(
    table: RouteTable, request: Request, as_json: bool, ejected: AbstractSet[Endpoint] = frozenset()
) -> None:
    explained = explain(table, request, ejected)
    if as_json:
        click.echo(msgspec.json.encode(plain_explanation(explained)))
        return
    decision = explained.decision
    click.echo(f"{decision.region or f'deny {decision.status}'}   {decision.reason}")
    what = f"rule {decision.rule}" if decision.rule else f"route {decision.route}" if decision.route else "no route"
    click.echo(f"  {what}   {explained.where}   {explained.tested}".rstrip())
    click.echo(f"  zone {decision.zone or '(none)'}")
    for tier, regions in explained.tiers:
        click.echo(f"  {tier}")
        for kept in regions:
            click.echo(f"    {kept.region} {kept.level}   {'<- chosen' if kept.chosen else kept.why}")
    if explained.affinity:
        click.echo(f"  sticks by {explained.affinity}")
    if explained.valid_until is not None:
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(explained.valid_until // 1_000_000))
        click.echo(f"  until {until}, when a time window opens or closes")


def _table(program: Program, site: str, assignments: tuple[str, ...], moment: str | None) -> RouteTable:
    known = dict.fromkeys(program.regions, Level.HEALTHY)
    for assignment in assignments:
        region, _, level = assignment.partition("=")
        if region not in known:
            raise CommandError(f"--set {assignment}: the policy has no region {region}", EXIT_USAGE)
        try:
            known[region] = read_level(level)
        except BadValueError as error:
            raise CommandError(f"--set {assignment}: {error.message}", EXIT_USAGE) from None
    return plan(program, known, place_at(site), moment_us(moment))


def place_at(text: str) -> SitePlace:
    """The place "LAT LON". Raises `CommandError`."""
    latitude, _, longitude = text.replace(",", " ").strip().partition(" ")
    try:
        return SitePlace(
            "here",
            read_coordinate(latitude or "x", LATITUDE_E6_MAX, "latitude"),
            read_coordinate(longitude.strip() or "x", LONGITUDE_E6_MAX, "longitude"),
        )
    except BadValueError as error:
        raise CommandError(f"site {text!r}: {error.message}; expected {error.expected}", EXIT_USAGE) from None


def moment_us(moment: str | None) -> int:
    """Microseconds since the epoch: of a moment as ISO 8601, or of now. Raises `CommandError`."""
    try:
        return read_moment(moment) if moment else time.time_ns() // 1_000
    except ValueError as error:
        raise CommandError(f"--time: {error}", EXIT_USAGE) from None


def _recorded(log: Path, host: str) -> Iterator[Request | None]:
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.strip():
                    yield read_log_line(line, host)
    except OSError as error:
        raise CommandError(f"{log}: cannot be read: {(error.strerror or str(error)).lower()}", EXIT_USAGE) from None


def _synthetic(program: Program) -> Iterator[Request]:
    """Users of every zone, on every route."""
    for route in program.routes:
        host, path = route.hosts[0].replace("*", "x"), route.path.replace("**", "").replace("*", "x") or "/"
        yield from users_of(program, Request("", host, path), _USERS)
        for zone in program.policy.zones:
            country, continent = (places[0] if places else "" for places in (zone.countries, zone.continents))
            for cidr in zone.cidrs[:8]:
                yield Request(str(cidr.network.network_address), host, path)
            if not zone.cidrs:
                asn = zone.asns[0] if zone.asns else 0
                base = Request("", host, path, country=country, continent=continent, asn=asn)
                yield from users_of(program, base, _USERS)


def _show(study: Study, as_json: bool, *, moves: bool) -> None:
    if as_json:
        body = {
            "requests": study.requests,
            "users": len(study.users),
            "unreadable": study.unreadable,
            "regions": dict(sorted(study.regions.items())),
        }
        if moves:
            body |= {
                "moved": study.moved,
                "users_moved": len(study.users_moved),
                "moves": [{"from": was, "to": now, "requests": n} for (was, now), n in sorted(study.moves.items())],
            }
        else:
            body["rules"] = dict(sorted(study.rules.items()))
        click.echo(msgspec.json.encode(body))
        return
    if moves:
        share = 100 * study.moved / max(1, study.requests)
        click.echo(f"{study.moved} of {study.requests} requests move ({share:.1f} %), ", nl=False)
        click.echo(f"{len(study.users_moved)} of {len(study.users)} users")
        for (was, now), count in study.moves.most_common():
            click.echo(f"  {was} -> {now}   {count}")
        return
    click.echo(f"{study.requests} requests of {len(study.users)} users; {study.unreadable} lines could not be read")
    for region, count in study.regions.most_common():
        click.echo(f"  {region}   {count}   {100 * count / max(1, study.requests):.1f} %")
    for rule, count in study.rules.most_common():
        click.echo(f"  by {rule}   {count}")
