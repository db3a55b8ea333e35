"""`edgelattice policy rollout`: bring a version to the sites by stages, and see what they find."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
from rich.console import ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from lattice.errors import MalformedError
from lattice.grants import Role
from lattice.health import SAYINGS_MAX
from lattice.policy_content import check_policy_name
from lattice.rollouts import STAGES, Start, fault_of_stages, parse_start
from router.commands.failing import EXIT_FAILED, EXIT_USAGE, CommandError, complain
from router.commands.operator import Operator, key_option, operator_of
from router.commands.policy_check import publishable
from router.commands.publishing import not_done
from router.commands.shared import client_for, control_option
from router.commands.status_screen import ID_CHARS, age, console
from router.control.author_chain import AuthorChain
from router.control.body import DEFAULT_POLICY, RolloutBody, RolloutSiteBody, ViewBody
from router.control.client import ControlClient, ControlError
from router.control.publish import Desk, RolloutPlan

WATCH_SECONDS = 1.0
"""How often `advance --watch` looks: a verdict takes dozens of requests."""
_WORD_STYLE = {"passed": "green", "condemned": "bold red", "rolled back": "red", "undecided": "dim"}
_STATE_STYLE = {"under way": "yellow", "complete": "green", "aborted": "red", "rolled back": "bold red"}

name_option = click.option("--name", default=DEFAULT_POLICY, show_default=True, help="Which policy.")
_NO_VOTE = "who is away, or sees every region fail, has none"
rollout_argument = click.argument("rollout", metavar="[ID]", required=False)


@click.group("rollout")
def rollout() -> None:
    """Bring a version of the policy to a few sites first, and to all if it proves good there.

    \b
        edgelattice policy rollout start shop.policy --key eva.key -m "new tiers"
        edgelattice policy rollout status
        edgelattice policy rollout advance --key eva.key --watch
        edgelattice policy rollout abort --key eva.key -m "too slow"

    A site that finds it bad goes back at once by itself; if enough sites do, all do, for good.
    """


def _stages(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        stages = tuple(int(part.strip().removesuffix("%")) for part in value.split(","))
        fault = fault_of_stages(stages)
    except ValueError:
        fault = f"{value!r} are no percents"
    if fault is not None:
        raise click.BadParameter(f"{fault}; such as 1,5,25,100.")
    return stages


@rollout.command("start")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@key_option
@control_option
@name_option
@click.option(
    "--stages",
    default=",".join(map(str, STAGES)),
    show_default=True,
    callback=_stages,
    help="Percent of all sites, rising to 100.",
)
@click.option("--first", multiple=True, metavar="SITE", help="A site that begins; may be said more than once.")
@click.option("-m", "--message", default="", help="Why, for those who read the history.")
def start_command(
    file: Path,
    key_file: Path,
    control: str | None,
    name: str,
    stages: tuple[int, ...],
    first: tuple[str, ...],
    message: str,
) -> None:
    """Sign a policy and have its first stage try it.

    It is checked as by `publish`. Which sites are in a stage is drawn anew for each rollout; at least one is in the
    first. All others go on as they are.
    """
    _check_name(name)
    operator = operator_of(key_file)
    text = publishable(file, "nothing was begun")
    client = client_for(control)
    try:
        view = client.view()
        _check_first(first, view)
        _check_room(view)
        plan = RolloutPlan(
            stages, tuple(sorted(set(first))), tuple(sorted({each.site for each in view.members})), message
        )
        desk = _desk(client, key_file, operator)
        with desk.alone():
            begun, cluster = desk.roll_out(name, text, plan, _now_ms())
    except (ControlError, ValueError, OSError) as error:
        if isinstance(error, ControlError) and error.body is not None and error.body.rendered:
            click.echo(error.body.rendered, err=True)
        raise not_done("begun", error, key_file) from None
    sites = [site for site in plan.sites if begun.includes(site, 0)]
    click.echo(
        f"rollout {begun.id.hex()[:ID_CHARS]} of {name} {begun.version.hex()[:ID_CHARS]} begun in cluster {cluster}: "
        f"{_many(len(sites), 'site')} of {len(plan.sites)} try it: {', '.join(sites)}"
    )


def _check_first(first: tuple[str, ...], view: ViewBody) -> None:
    known = sorted({member.site for member in view.members})
    for site in first:
        if site not in known:
            raise CommandError(f"--first {site}: the node knows no such site; it knows {', '.join(known)}", EXIT_USAGE)


def _check_room(view: ViewBody) -> None:
    """A site that forgot what it found of the earliest rollout would serve that again when all later ones are over."""
    if len(view.rollouts) >= SAYINGS_MAX:
        raise CommandError(
            f"nothing was begun: there are {len(view.rollouts)} rollouts since the last publish, and sites can say no "
            "more of them; publish what serves now (`policy publish`), which ends them, and begin then"
        )


@rollout.command("advance")
@rollout_argument
@key_option
@control_option
@name_option
@click.option("--force", is_flag=True, help="Though the sites in the stage have not found it good. Operators only.")
@click.option("--watch", is_flag=True, help="Go on, stage by stage, as soon as the sites have; until it is at all.")
@click.option("-m", "--message", default="", help="Why, for those who read the history.")
def advance_command(
    rollout: str | None,
    key_file: Path,
    control: str | None,
    name: str,
    force: bool,
    watch: bool,
    message: str,
) -> int:
    """Go on to the next stage, if more than half of the sites in this one have found the version good.

    A site has when enough of its users' requests went well; where nobody asks, nothing is found, and it waits.
    The key may be an operator's, or a controller's (`ca issue --role controller`).

    Exit status 0 when it advanced (with --watch: to all sites, which found it good), 1 when it did not.
    """
    _check_name(name)
    if force and watch:
        raise CommandError("--force and --watch: whoever watches does not force; drop one", EXIT_USAGE)
    operator = operator_of(key_file, Role.OPERATOR, Role.CONTROLLER)
    if force and operator.role is Role.CONTROLLER:
        raise CommandError("--force: a controller advances what has passed, no more; an operator may", EXIT_USAGE)
    client = client_for(control)

    def advance(body: RolloutBody) -> None:
        stage = body.stage + 1
        _say(client, key_file, operator, body, stage, message)
        click.echo(
            f"rollout {body.id[:ID_CHARS]} advanced to stage {stage + 1} of {len(body.stages)}: {_share(body, stage)}"
        )

    try:
        if watch:
            return _watch(client, rollout, name, advance)
        body = _found(client.view(), rollout, name)
        if body.state != "under way":
            complain(f"rollout {body.id[:ID_CHARS]} is {body.state}: there is nothing to advance")
            return EXIT_FAILED
        if not body.passed and not force:
            complain(f"{_standing(body)}; --force advances all the same")
            return EXIT_FAILED
        advance(body)
    except (ControlError, ValueError, OSError) as error:
        raise not_done("advanced", error, key_file) from None
    return 0


def _watch(client: ControlClient, wanted: str | None, name: str, advance: Callable[[RolloutBody], None]) -> int:
    told = ""
    body = _found(client.view(), wanted, name)
    while True:
        if body.state not in {"under way", "complete"}:
            complain(f"rollout {body.id[:ID_CHARS]} is {body.state}{_why(body)}")
            return EXIT_FAILED
        if body.passed and body.state == "complete":
            click.echo(f"rollout {body.id[:ID_CHARS]} is complete: all sites serve {body.version[:ID_CHARS]}")
            return 0
        if body.passed:
            advance(body)
        elif (standing := _standing(body)) != told:
            told = standing
            click.echo(told)
        time.sleep(WATCH_SECONDS)
        view = client.view()
        if all(each.id != body.id for each in view.rollouts):
            complain(f"rollout {body.id[:ID_CHARS]} is over: something was published since")
            return EXIT_FAILED
        body = _found(view, body.id, name)


@rollout.command("abort")
@rollout_argument
@key_option
@control_option
@name_option
@click.option("-m", "--message", default="", help="Why, for those who read the history.")
def abort_command(rollout: str | None, key_file: Path, control: str | None, name: str, message: str) -> None:
    """Have every site go back to the version before, and stay there.

    It outweighs everything that was or will be said of this rollout. The key may be an operator's or a controller's.
    """
    _check_name(name)
    operator = operator_of(key_file, Role.OPERATOR, Role.CONTROLLER)
    client = client_for(control)
    try:
        body = _found(client.view(), rollout, name)
        _say(client, key_file, operator, body, None, message)
    except (ControlError, ValueError, OSError) as error:
        raise not_done("aborted", error, key_file) from None
    click.echo(f"rollout {body.id[:ID_CHARS]} aborted: all sites serve {body.base[:ID_CHARS]} again")


@rollout.command("status")
@rollout_argument
@control_option
@name_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status_command(rollout: str | None, control: str | None, name: str, as_json: bool) -> None:
    """Show the rollouts that no later publish has ended: stages, who is in, what they found, who serves what."""
    _check_name(name)
    try:
        view = client_for(control).view()
        if rollout is not None:
            bodies = [_found(view, rollout, name)]
        else:
            bodies = [body for body in view.rollouts if body.policy == name]
        if as_json:
            click.echo(msgspec.json.encode(bodies))
        elif not bodies:
            click.echo(f"{name}: no rollout since the last publish")
        else:
            console().print(Group(*(rollout_screen(body, view.now_ms) for body in bodies)))
    except (ControlError, ValueError) as error:
        raise CommandError(str(error)) from None


def rollout_screen(body: RolloutBody, now_ms: int) -> ConsoleRenderable:
    """One rollout, as tables. Raises ValueError for what no node would say."""
    heading = Text.assemble(
        ("rollout ", "dim"), (body.id[:ID_CHARS], "bold"), ("  of ", "dim"), body.policy,
        ("  from ", "dim"), body.base[:ID_CHARS], ("  to ", "dim"), body.version[:ID_CHARS],
        ("  begun ", "dim"), f"{age(body.started_ms, now_ms)} ago  ", (body.state, _STATE_STYLE.get(body.state, "")),
        f"{_why(body)}  {body.message}",
    )  # fmt: skip
    start = _start_of(body)
    stages = _table("stage", "share", "sites", "")
    for stage, share in enumerate(body.stages):
        held = [site.site for site in body.sites if start.includes(site.site, stage)]
        here = "in force" if stage == body.stage else "done" if stage < body.stage else ""
        stages.add_row(str(stage + 1), f"{share} %", Text(f"{len(held)}: {', '.join(held)}" if held else "0"), here)
    sites = _table("site", "in", "found", "serves")
    if not body.sites:
        sites = _table(f"no site has a word that counts: {_NO_VOTE}")
    for site in sorted(body.sites, key=lambda each: (not each.inside, each.site)):
        sites.add_row(
            Text(site.site),
            "yes" if site.inside else "no",
            Text(site.word, _WORD_STYLE.get(site.word, "")),
            Text(_serves(site, body)),
        )
    return Group(heading, stages, Text(""), sites, Text(""))


def _serves(site: RolloutSiteBody, body: RolloutBody) -> str:
    what = {body.version: " (the new one)", body.base: " (the one before)"}.get(site.in_force, "")
    return f"{site.in_force[:ID_CHARS]}{what}" if site.in_force else "?"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, header_style="dim")
    return table


def _why(body: RolloutBody) -> str:
    if body.abort is not None:
        said = f": {body.abort.message}" if body.abort.message else ""
        return f" by {body.abort.author[:ID_CHARS]}{said}"
    bad = [site.site for site in body.sites if site.word == "condemned"]
    return f" by {', '.join(bad)}" if body.state == "rolled back" and bad else ""


def _standing(body: RolloutBody) -> str:
    """How far the sites in the stage are, in words."""
    inside = [site for site in body.sites if site.inside]
    if not inside:
        return f"stage {body.stage + 1} of {len(body.stages)}: no site in it has a word that counts ({_NO_VOTE})"
    words = {word: [site.site for site in inside if site.word == word] for word in _WORD_STYLE}
    said = (
        f"stage {body.stage + 1} of {len(body.stages)}: {len(words['passed'])} of {_many(len(inside), 'site')} passed"
    )
    missing = [f"{word}: {', '.join(sites)}" for word, sites in words.items() if sites and word != "passed"]
    return "; ".join([said, *missing])


def _share(body: RolloutBody, stage: int) -> str:
    start = _start_of(body)
    held = sum(start.includes(site.site, stage) for site in body.sites)
    return f"{body.stages[stage]} %, {_many(held, 'site')}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _found(view: ViewBody, wanted: str | None, name: str) -> RolloutBody:
    """The rollout that is meant: by the first digits of its id, or the one under way. Raises `CommandError`."""
    bodies = [body for body in view.rollouts if body.policy == name]
    found = [body for body in bodies if body.id.startswith(wanted)] if wanted else bodies
    if not wanted and len(found) > 1:
        found = [body for body in found if body.state == "under way"] or found[-1:]
    if len(found) == 1:
        return found[0]
    there_are = ", ".join(f"{body.id[:ID_CHARS]} ({body.state})" for body in bodies) or "none since the last publish"
    wrong = f"{wanted!r} names {'several' if found else 'no rollout'}" if wanted else "which rollout?"
    raise CommandError(f"{wrong}; there are {there_are}", EXIT_USAGE)


def _say(
    client: ControlClient, key_file: Path, operator: Operator, body: RolloutBody, stage: int | None, message: str
) -> None:
    desk = _desk(client, key_file, operator)
    with desk.alone():
        desk.say(_start_of(body), stage, message, _now_ms())


def _start_of(body: RolloutBody) -> Start:
    """Raises ValueError for what no node would say."""
    try:
        start = parse_start(bytes.fromhex(body.start))
    except MalformedError as error:
        raise ValueError(f"the node's word on rollout {body.id} does not hold: {error}") from None
    if start.id.hex() != body.id:
        raise ValueError(f"the node's word on rollout {body.id} is about another one")
    return start


def _desk(client: ControlClient, key_file: Path, operator: Operator) -> Desk:
    return Desk(client, operator.private_key, AuthorChain(key_file), operator.grant)


def _check_name(name: str) -> None:
    try:
        check_policy_name(name)
    except ValueError as error:
        raise CommandError(str(error), EXIT_USAGE) from None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
