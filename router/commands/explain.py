"""`edgelattice explain`: why a live node sends a request where it does, or another site would."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import click
import msgspec

from lattice.types import Endpoint, Level
from router.commands.asked import request_options
from router.commands.failing import EXIT_USAGE, CommandError
from router.commands.policy_tools import moment_us, place_at, show_explanation
from router.commands.shared import client_for, control_option
from router.commands.status_screen import ID_CHARS
from router.control.body import DEFAULT_POLICY, RegionBody, SteeringBody, ViewBody
from router.control.client import ControlClient, ControlError
from router.decision.explanation import explain as explained_by
from router.decision.explanation import plain_explanation
from router.decision.layout import SitePlace
from router.decision.plan import RouteTable, plan
from router.decision.program import Program, compile_policy
from router.decision.request import Request
from router.policy import PolicyError, parse
from router.policy.values import write_percent


@click.command()
@request_options(client_required=True)
@click.option(
    "--at", "at", metavar="SITE", help="The deciding site's name, or \"LAT LON\"; the node's own unless given."
)
@click.option("--time", "moment", metavar="ISO8601", help="When; now unless given.")
@click.option("--json", "as_json", is_flag=True)
@control_option
def explain(
    request: Request,
    at: str | None,
    moment: str | None,
    as_json: bool,
    control: str | None,
) -> None:
    """Say which rule decides a request, what each tier keeps and why, by a node's policy and view.

    The decision is worked out here, from the policy in force there and what it knows. For another site it is by that
    site's own word on each region and the verdict; what it ejected this instant, the round trips it measured and who
    has yet to go back to a region there, only it knows. Without a country, continent or ASN given, the node's
    database is asked where the user is.

    \b
        edgelattice explain --client 203.0.113.7 --host shop.example.com --path /cart --at fra
    """
    node = client_for(control)
    try:
        view = node.view()
        site = _site(view, at)
        version, trial = _in_force(view, site.name)
        text = _text(node, version)
        program = compile_policy(parse(text, DEFAULT_POLICY))
        if program.needs.place and not (request.country or request.continent or request.asn or request.location):
            request = _located(node, request)
    except ControlError as error:
        raise CommandError(str(error)) from None
    except PolicyError as error:
        raise CommandError(f"the node's policy is not known to this version: {error}") from None
    ours = site.name == view.site
    table = _table(program, view, site, moment)
    ejected = frozenset(_endpoints(view)) if ours else frozenset()
    if as_json:
        body = {
            "site": site.name,
            "version": version,
            "trial": trial,
            "unknown_here": [] if ours else list(_UNKNOWN_OF_OTHERS),
            "explanation": plain_explanation(explained_by(table, request, ejected)),
            "regions": [_state(region, _steering(view).get(region.region)) for region in view.regions],
        }
        click.echo(msgspec.json.encode(body))
        return
    show_explanation(table, request, as_json=False, ejected=ejected)
    by = f" by version {version[:ID_CHARS]}{f', {trial}' if trial else ''}" if version else ""
    click.echo(f"  decided at {site.name}{by}")
    if not ours:
        click.echo(f"  not known here of {site.name}: {', '.join(_UNKNOWN_OF_OTHERS)}")
    for region in view.regions:
        if region.region in program.regions:
            _show_state(region, _steering(view).get(region.region))


_UNKNOWN_OF_OTHERS = (
    "the round trips it measured (distances stand in)",
    "what it ejected this instant",
    "its damping, cooldown and probation",
    "who has yet to go back",
)
"""Its rows say how soon regions answer, not how far they are: what a region takes to think would count as distance."""


def _in_force(view: ViewBody, site: str) -> tuple[str, str]:
    """By which version a site decides, by its own word, and what that is on trial as; nothing where it does not say."""
    policy = next((each for each in view.policies if each.policy == DEFAULT_POLICY), None)
    if policy is None:
        return "", ""
    if site == view.site:
        return policy.in_force, policy.trial
    said = next((each.applied.get(DEFAULT_POLICY, "") for each in view.members if each.site == site), "")
    rollout = next((each for each in view.rollouts if each.version == said and each.state == "under way"), None)
    return said, "" if rollout is None else f"canary {rollout.id[:ID_CHARS]}"


def _text(node: ControlClient, version: str) -> str:
    """Of a version, or of what is in force at the node, should it have another no more. Raises `ControlError`."""
    try:
        return node.policy_text(DEFAULT_POLICY, version)
    except ControlError as error:
        if error.status != 404:
            raise
        return node.policy_text(DEFAULT_POLICY)


def _located(node: ControlClient, request: Request) -> Request:
    seen = node.decide(request.client, request.host, request.path, request.method)
    return request._replace(country=seen.country, continent=seen.continent, asn=seen.asn, location=seen.location)


def _site(view: ViewBody, at: str | None) -> SitePlace:
    """The site that decides. Raises `CommandError` for a name that no member has."""
    if at is not None and re.match(r"[-+0-9. ,]+\Z", at):
        return place_at("--at", at)
    name = at or view.site
    places = {member.site: member.at_e6 for member in view.members if member.at_e6 is not None}
    known = sorted({member.site for member in view.members})
    if name not in known:
        raise CommandError(f"--at {name}: the node knows no such site; it knows {', '.join(known)}", EXIT_USAGE)
    if name in places:
        return SitePlace(name, *places[name])
    if name != view.site:
        raise CommandError(f'--at {name}: that site does not say where it is; give "LAT LON"', EXIT_USAGE)
    return SitePlace(name, 0, 0, placed=False)


def _table(program: Program, view: ViewBody, site: SitePlace, moment: str | None) -> RouteTable:
    steering = _steering(view)
    levels: dict[str, Level] = {}
    for region in view.regions:
        levels[region.region] = Level[region.effective]
        if site.name == view.site and region.region in steering:
            levels[region.region] = Level[steering[region.region].planned]
        elif site.name != view.site:
            own = [Level[witness.level] for witness in region.witnesses if witness.site == site.name]
            levels[region.region] = max([Level[region.verdict], *own])
    measured = {name: state.rtt_us for name, state in steering.items() if state.rtt_us is not None}
    return plan(
        program,
        {name: level for name, level in levels.items() if name in program.regions},
        site,
        moment_us(moment),
        {name: state.saturation_ppm for name, state in steering.items()},
        measured if site.name == view.site else {},
        {name: state.away_ppm for name, state in steering.items()} if site.name == view.site else {},
    )


def _steering(view: ViewBody) -> Mapping[str, SteeringBody]:
    return {state.region: state for state in view.steering}


def _state(region: RegionBody, steering: SteeringBody | None) -> dict[str, object]:
    own = {} if steering is None else msgspec.to_builtins(steering)
    return {**msgspec.to_builtins(region), **{f"own_{k}" if k == "reason" else k: v for k, v in own.items()}}


def _show_state(region: RegionBody, steering: SteeringBody | None) -> None:
    """What is known of a region that is not simply well."""
    planned = steering.planned if steering else region.effective
    quiet = steering is None or not (steering.suppressed or steering.penalty or steering.away_ppm)
    if region.effective == planned == "HEALTHY" and quiet:
        return
    witnesses = ", ".join(sorted({f"{w.site} {w.level}" for w in region.witnesses})) or "none"
    since = _clock(region.since_ms)
    click.echo(f"  {region.region} {region.effective} since {since} by {region.reason}; witnesses: {witnesses}")
    if steering is None:
        return
    if region.own != "HEALTHY":
        after = f"{steering.recover_after_us / 1e6:g}s"
        click.echo(f"    measured here {region.own}: {steering.reason}; better again after {after} of success")
    if steering.suppress is not None and steering.penalty:
        held = f", held at {planned}" if steering.suppressed else ""
        click.echo(f"    damping {steering.penalty} of {steering.suppress}{held}")
    if steering.away_ppm:
        click.echo(f"    well again: {write_percent(steering.away_ppm)} of its users are yet to go back")
    if steering.returns_ms is not None:
        click.echo(f"    returns no earlier than {_clock(steering.returns_ms)} (damping, cooldown, probation)")


def _clock(at_ms: int) -> str:
    return time.strftime("%H:%M:%SZ", time.gmtime(at_ms // 1_000))


def _endpoints(view: ViewBody) -> list[Endpoint]:
    pairs = [text.rpartition(":") for text in view.ejected]
    return [(host.strip("[]"), int(port)) for host, _, port in pairs]
