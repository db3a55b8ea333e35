"""`edgelattice policy fmt`, `test`, `diff`, `simulate`, `explain` and `compile`: a policy at work, on this machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from lattice.types import Endpoint, Level
from router.commands.asked import read_where, request_options
from router.commands.failing import EXIT_FAILED, EXIT_USAGE, CommandError, complain, why
from router.commands.numbers import Number
from router.commands.policy_files import compiled, written_text
from router.decision.access_log import LINE_LENGTH_MAX, Recorded, Unreadable, read_log
from router.decision.explanation import explain, plain_explanation
from router.decision.failback import FAILBACK_US_MAX, RAMP_US
from router.decision.layout import SitePlace
from router.decision.plan import RouteTable, plan
from router.decision.program import Program
from router.decision.request import Request
from router.decision.scenario_run import run_tests
from router.decision.traffic_study import Study, Timeline, compare, compare_synthetic, simulate
from router.decision.wasm.image import ImageTooLargeError
from router.decision.wasm.module import policy_module
from router.policy import PolicyError, format_policy
from router.policy.errors import did_you_mean
from router.policy.json_form import is_json, to_json
from router.policy.printer import print_policy
from router.policy.values import BadValueError, read_duration, read_level, write_duration
from router.policy.windows import read_moment

_FILE = click.Path(path_type=Path, allow_dash=True)


@click.command("fmt")
@click.argument("file", type=_FILE)
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 1 when there is something to do.")
def fmt(file: Path, only_check: bool) -> int:
    """Lay a policy out, comments and all. With - it goes from standard input to standard output."""
    text = written_text(file)
    if is_json(text):
        raise CommandError(f"{file}: JSON is not laid out; `policy compile --target text` makes a text of it")
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
        try:
            file.write_text(done, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{file}: cannot be written: {why(error)}") from None
    return 0


@click.command("test")
@click.argument("file", type=_FILE)
@click.option(
    "--failback",
    metavar="DURATION",
    default=write_duration(RAMP_US),
    show_default=True,
    help="Over how long a region that is well again gets its users back: `timing.failback` of your sites.",
)
@click.option("--json", "as_json", is_flag=True, help='{"tests": n, "failed": [...]}')
def test(file: Path, failback: str, as_json: bool) -> int:
    """Run the test blocks of a policy, on their virtual clock."""
    try:
        failback_us = read_duration(failback, 0, FAILBACK_US_MAX)
    except BadValueError as error:
        raise CommandError(f"--failback: {error.message}; expected {error.expected}", EXIT_USAGE) from None
    program = compiled(file)
    count, failed = 0, []
    for scenario, failures in run_tests(program, failback_us):
        count += 1
        failed += failures
        if not as_json:
            click.echo(f"{'FAILED' if failures else 'ok    '} {scenario.name}")
            for one in failures:
                click.echo(f"       {file}:{one.span.line}:{one.span.column}: {one.message}")
    if as_json:
        listed = [{"test": f.test, "line": f.span.line, "column": f.span.column, "message": f.message} for f in failed]
        click.echo(msgspec.json.encode({"tests": count, "failed": listed}))
    elif not count:
        complain(f'{file}: has no test; write: test "what must be" {{ given ... expect ... }}')
    return EXIT_FAILED if failed else 0


def _site_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--site",
        "--at",
        "site",
        default="0 0",
        show_default=True,
        metavar="'LAT LON'|REGION",
        help="Where the deciding site is, or which region it is beside.",
    )(command)


@click.command("diff")
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@click.option("--log", type=_FILE, help="Recorded traffic; else as many users of every route, zone and rule.")
@click.option("--host", default="", help="The host of log lines that name none.")
@_site_option
@click.option("--set", "levels", multiple=True, metavar="REGION=LEVEL", help="For example fra=down; may be repeated.")
@click.option("--time", "moment", metavar="ISO8601", help="When; of each log line its own time, else now.")
@click.option(
    "--max-moved",
    type=Number(0, 100),
    help="Exit status 1 when a greater share of users (per cent) moves.",
)
@click.option("--json", "as_json", is_flag=True)
def diff(
    before: Path,
    after: Path,
    log: Path | None,
    host: str,
    site: str,
    levels: tuple[str, ...],
    moment: str | None,
    max_moved: float | None,
    as_json: bool,
) -> int:
    """Say which users and requests a change of policy would move, and where.

    With a log: of the requests in it. Without one: of made-up users, as many for each kind of request that either
    policy tells apart, so shares are of kinds, not of your traffic. Everything is healthy but for --set.
    """
    programs = [compiled(file) for file in (before, after)]
    regions = {name for program in programs for name in program.regions}
    old, new = (_timeline(program, site, _levels(levels, regions), moment) for program in programs)
    study = compare(old, new, _recorded(log, host)) if log else compare_synthetic(old.at(None), new.at(None))
    _show(study, as_json, moves=True)
    share = 100 * len(study.users_moved) / max(1, len(study.users))
    return EXIT_FAILED if _useless(study, log) or (max_moved is not None and share > max_moved) else 0


@click.command("simulate")
@click.argument("file", type=_FILE)
@click.option("--log", type=_FILE, required=True, help="Common or combined format, or JSON lines; - is standard input.")
@click.option("--host", default="", help="The host of log lines that name none.")
@_site_option
@click.option("--set", "levels", multiple=True, metavar="REGION=LEVEL", help="For example fra=down; may be repeated.")
@click.option("--time", "moment", metavar="ISO8601", help="When; of each line its own time, else now.")
@click.option("--json", "as_json", is_flag=True)
def simulate_command(
    file: Path, log: Path, host: str, site: str, levels: tuple[str, ...], moment: str | None, as_json: bool
) -> int:
    """Say where a policy would send recorded traffic.

    Lines that are no requests are counted, the first few shown with what is wrong; exit status 1 when all are.
    """
    program = compiled(file)
    study = simulate(
        _timeline(program, site, _levels(levels, program.regions), moment), _recorded(log, host)
    )  # fmt: skip
    _show(study, as_json, moves=False)
    return EXIT_FAILED if _useless(study, log) else 0


@click.command("explain")
@click.argument("file", type=_FILE)
@request_options(client_required=False)
@_site_option
@click.option("--set", "levels", multiple=True, metavar="REGION=LEVEL", help="For example fra=down; may be repeated.")
@click.option("--time", "moment", metavar="ISO8601", help="When; now unless given.")
@click.option("--json", "as_json", is_flag=True)
def explain_command(
    file: Path, request: Request, site: str, levels: tuple[str, ...], moment: str | None, as_json: bool
) -> None:
    """Say which rule decides a request, what each tier keeps, and why."""
    program = compiled(file)
    show_explanation(_timeline(program, site, _levels(levels, program.regions), moment).at(None), request, as_json)


@click.command("compile")
@click.argument("file", type=_FILE)
@click.option("--target", type=click.Choice(["json", "text", "wasm"]), default="json", show_default=True)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Where to; else standard output.")
def compile_command(file: Path, target: str, output: Path | None) -> None:
    """Write a policy in another form: JSON, a WebAssembly module that decides as a node does, or text.

    FILE may be JSON, as every FILE of a policy may. The text is canonical: comments are not kept, `fmt` keeps them.

    \b
        edgelattice policy compile shop.policy --output shop.json
        edgelattice policy compile shop.json --target text --output shop.policy
        edgelattice policy compile shop.policy --target wasm --output shop.wasm
    """
    program = compiled(file)
    if target == "json":
        written = f"{to_json(program.policy)}\n".encode()
    elif target == "text":
        written = print_policy(program.policy).encode()
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
        raise CommandError(f"--output {output}: cannot be written: {why(error)}") from None


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


def _levels(assignments: tuple[str, ...], regions: Collection[str]) -> Mapping[str, Level]:
    """What `--set` says. Raises `CommandError`."""
    known: dict[str, Level] = {}
    for assignment in assignments:
        region, _, level = assignment.partition("=")
        if region not in regions:
            near = did_you_mean(region, regions) or f"there are: {', '.join(sorted(regions)[:8])}"
            raise CommandError(f"--set {assignment}: the policy has no region {region!r}; {near}", EXIT_USAGE)
        try:
            known[region] = read_level(level)
        except BadValueError as error:
            raise CommandError(
                f"--set {assignment}: {error.message}; expected REGION=LEVEL, {error.expected}", EXIT_USAGE
            ) from None
    return known


def _timeline(program: Program, site: str, levels: Mapping[str, Level], moment: str | None) -> Timeline:
    known = {name: levels.get(name, Level.HEALTHY) for name in program.regions}
    beside = program.regions.get(site)
    place = place_at("--site", site) if beside is None else SitePlace("here", beside.latitude_e6, beside.longitude_e6)
    return Timeline(lambda now_us: plan(program, known, place, now_us), moment_us(moment), fixed=moment is not None)


def place_at(option: str, text: str) -> SitePlace:
    """The place "LAT LON", as that option says it. Raises `CommandError`."""
    return SitePlace("here", *read_where(option, text))


def moment_us(moment: str | None) -> int:
    """Microseconds since the epoch: of a moment as ISO 8601, or of now. Raises `CommandError`."""
    try:
        return read_moment(moment) if moment else time.time_ns() // 1_000
    except ValueError as error:
        raise CommandError(
            f"--time {moment!r}: {error}; expected a date, a time and an offset, like 2027-03-28T03:30:00+02:00",
            EXIT_USAGE,
        ) from None


def _recorded(log: Path, host: str) -> Iterator[Recorded | Unreadable]:
    """The lines of a file; - is standard input. Raises `CommandError`."""
    try:
        with log.open("rb") if str(log) != "-" else nullcontext(sys.stdin.buffer) as opened:
            yield from read_log(_lines(opened), host)
    except OSError as error:
        raise CommandError(f"--log {log}: cannot be read: {why(error)}", EXIT_USAGE) from None


def _lines(opened: BinaryIO) -> Iterator[str]:
    """Lines, each cut where it is too long to be one: a file without line ends is no reason to read it whole."""
    whole = True
    while line := opened.readline(LINE_LENGTH_MAX + 2):
        if whole:
            yield line.decode("utf-8", "replace")
        whole = line.endswith(b"\n")


def _useless(study: Study, log: Path | None) -> bool:
    """Whether there was nothing to go by; then says so."""
    if log is not None and not study.requests:
        complain(f"--log {log}: no line of it is a request, so nothing was tried")
        return True
    return False


def _show(study: Study, as_json: bool, *, moves: bool) -> None:
    if as_json:
        body = {
            "requests": study.requests,
            "users": len(study.users),
            "unreadable": study.unreadable,
            "first_unreadable": [{"line": each.line, "why": each.why} for each in study.first_unreadable],
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
    for each in study.first_unreadable:
        complain(f"line {each.line}: {each.why}")
    if study.unreadable > len(study.first_unreadable):
        complain(f"... and {study.unreadable - len(study.first_unreadable)} more lines")
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
