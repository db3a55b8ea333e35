"""What `edgelattice status` shows: a view as tables. The same view always gives the same text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from router.control.body import DecisionBody, KeysBody, MemberBody, PolicyBody, RegionBody, ViewBody
from router.policy.values import write_percent

EVENTS_SHOWN = 8
LOSSES_SHOWN = 12
_LOSS = re.compile(
    r"^(?!probe |void ops)(?=.*(reject|drop|refus|not (sent|read)|\bfull\b|\bover\b|beyond|too many|fail|shed"
    r"|without an address|^restore: |^seeds |^mdns: (?!peers heard)))"
)
"""What a counter's name says when something was lost or kept out; probes fail as a matter of course."""
ID_CHARS = 8
"""As `lattice.types.short`."""

_LEVEL_STYLE = {
    "HEALTHY": "green",
    "DEGRADED": "yellow",
    "FAILING": "dark_orange",
    "DOWN": "bold red",
    "UNKNOWN": "dim",
}
_STATE_STYLE = {"alive": "green", "suspect": "yellow", "down": "bold red", "left": "dim"}


def status_screen(view: ViewBody) -> ConsoleRenderable:
    """Everything that fits a terminal; `--json` has the rest."""
    regions = Group(_regions(view), *_kept_from(view))
    parts: list[ConsoleRenderable] = [_heading(view), regions, _members(view)]
    parts.append(_policies(view) if view.policies else Text("No policy yet: edgelattice policy publish FILE --key KEY"))
    if view.rollouts:
        parts.append(_rollouts(view))
    if view.quarantined or view.forked:
        parts.append(_caught(view))
    losses = _losses(view)
    if losses:
        parts.append(_lost(losses))
    if view.events:
        parts.append(_events(view))
    return Group(*(line for part in parts for line in (part, Text(""))))


def decision_screen(decision: DecisionBody) -> ConsoleRenderable:
    """One decision: what was chosen, why, and what would be tried next."""
    lines = Table.grid(padding=(0, 2))
    chosen = (
        _level_text(decision.region, decision.attempts[0].level) if decision.attempts else Text("nobody", "bold red")
    )
    if decision.region is None:
        chosen = Text(f"denied with {decision.status}", "bold red")
    by = ", ".join(filter(None, (decision.version[:ID_CHARS], decision.trial)))
    for name, value in (
        ("region", chosen),
        ("reason", Text(decision.reason)),
        ("version", Text(by or "none")),
        ("route", Text(decision.route or "none")),
        ("zone", Text(decision.zone or "none")),
        ("tier", Text(decision.tier or "none")),
        ("proposed", Text(decision.proposed or "none")),
    ):
        lines.add_row(Text(name, "dim"), value)
    attempts = _table("Attempts", "region", "tier", "level", "endpoint")
    for attempt in decision.attempts:
        attempts.add_row(Text(attempt.region), Text(attempt.tier), _level(attempt.level), Text(attempt.endpoint))
    return Group(lines, Text(""), attempts) if decision.attempts else lines


def keys_screen(found: KeysBody) -> ConsoleRenderable:
    """A node's keys, and what its peers do with theirs."""
    own = _table(f"Keys of {found.site}", "id", "label", "")
    for key in found.keys:
        own.add_row(Text(key.id), Text(key.label), Text("in use" if key.used else "opens"))
    peers = _table("Peers", "site", "node", "state", "seals with", "frames", "")
    for peer in found.peers:
        frames = " ".join(f"{key}:{count}" for key, count in sorted(peer.frames.items()))
        said = [] if peer.uses_ours else ["seals with another key"]
        said += [] if peer.has_ours else ["has other keys"]
        lag = Text("; ".join(said), "yellow") if said else Text("as here")
        peers.add_row(Text(peer.site), Text(peer.node[:ID_CHARS]), Text(peer.state), Text(peer.key), Text(frames), lag)
    return Group(own, Text(""), peers) if found.peers else own


def console(width: int | None = None) -> Console:
    """Standard output, coloured only on a terminal, and as wide as it needs to be elsewhere."""
    plain = Console(width=width, highlight=False)
    return plain if plain.is_terminal or width else Console(width=200, highlight=False)


def age(from_ms: int, now_ms: int) -> str:
    """How long ago, in the two digits that matter."""
    seconds = max(0, now_ms - from_ms) / 1_000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:.1f}s" if seconds < 10 else f"{int(seconds)}s"


def _heading(view: ViewBody) -> Text:
    alive = sum(1 for member in view.members if member.state == "alive")
    text = Text.assemble(
        ("site ", "dim"), (view.site, "bold"), ("  node ", "dim"), view.node[:ID_CHARS],
        ("  members ", "dim"), f"{alive}/{len(view.members)}", ("  cells ", "dim"), str(view.cells),
        ("  root ", "dim"), view.root[:ID_CHARS], ("  requests ", "dim"), str(view.traffic.requests),
        ("  errors ", "dim"), (str(view.traffic.errors), "bold red" if view.traffic.errors else ""),
        ("  retries ", "dim"), str(view.traffic.retries),
    )  # fmt: skip
    if view.isolated:
        text.append("\nISOLATED: everything fails from here, so this node does not vote", "bold red")
    for warning in view.warnings:
        text.append(f"\n{warning}", "bold yellow")
    if view.revoked:
        text.append("\nrevoked: " + " ".join(key[:ID_CHARS] for key in view.revoked), "yellow")
    if view.ejected:
        text.append("\nejected here: " + " ".join(view.ejected), "yellow")
    return text


def _regions(view: ViewBody) -> Table:
    table = _table("Regions", "region", "level", "for", "verdict", "own", "why", "witnesses", "answers")
    for region in view.regions:
        table.add_row(
            Text(region.region),
            _level(region.effective),
            Text(age(region.since_ms, view.now_ms) if region.since_ms else "-"),
            _level(region.verdict),
            _level(region.own),
            Text(region.reason),
            _witnesses(region),
            Text(str(view.traffic.by_region.get(region.region, 0))),
        )
    return table


def _witnesses(region: RegionBody) -> Text:
    return Text(" ").join(_level_text(witness.site, witness.level) for witness in region.witnesses)


def _kept_from(view: ViewBody) -> list[Text]:
    """Which regions get fewer users here than their levels say, and why."""
    levels = {region.region: region.effective for region in view.regions}
    lines = []
    for region in view.steering:
        if region.returns_ms is not None and region.planned != levels.get(region.region):
            left = age(view.now_ms, region.returns_ms)
            said = f"still taken for {region.planned} here, for {left} at least (damping, cooldown, probation)"
        elif region.away_ppm:
            said = f"{write_percent(region.away_ppm)} of its users are yet to go back"
        else:
            continue
        lines.append(Text(f"{region.region}: {said}", "yellow"))
    return lines


def _members(view: ViewBody) -> Table:
    table = _table("Members", "site", "node", "address", "state", "incarnation", "policy")
    for member in view.members:
        table.add_row(
            Text(member.site + (" (this)" if member.node == view.node else "")),
            Text(member.node[:ID_CHARS]),
            Text(member.address),
            Text(member.state, _STATE_STYLE.get(member.state, "")),
            Text(str(member.incarnation)),
            Text(_applied(member)),
        )
    return table


def _applied(member: MemberBody) -> str:
    return " ".join(f"{policy}={version[:ID_CHARS]}" for policy, version in sorted(member.applied.items())) or "none"


def _policies(view: ViewBody) -> Table:
    table = _table("Policies", "policy", "version", "author", "published", "in force", "at sites", "message")
    for policy in view.policies:
        rivals = f"; {len(policy.rivals)} published concurrently" if policy.rivals else ""
        table.add_row(
            Text(policy.policy),
            Text(policy.version[:ID_CHARS]),
            Text(policy.author[:ID_CHARS]),
            Text(age(policy.published_ms, view.now_ms) + " ago"),
            Text("not yet" if policy.applied_ms is None else age(policy.applied_ms, view.now_ms) + " ago"),
            Text(_in_force_at(policy, view.members)),
            Text(policy.message + rivals),
        )
    return table


def _rollouts(view: ViewBody) -> Table:
    table = _table("Rollouts", "rollout", "policy", "version", "stage", "sites", "found", "here", "")
    here = {(policy.policy, policy.in_force) for policy in view.policies}
    for rollout in view.rollouts:
        inside = [site for site in rollout.sites if site.inside]
        found = Counter(site.word for site in rollout.sites if site.inside or site.word != "undecided")
        table.add_row(
            Text(rollout.id[:ID_CHARS]),
            Text(rollout.policy),
            Text(rollout.version[:ID_CHARS]),
            Text(f"{rollout.stage + 1}/{len(rollout.stages)}: {rollout.stages[rollout.stage]} %"),
            Text(f"{len(inside)}/{len(rollout.sites)}"),
            Text(", ".join(f"{count} {word}" for word, count in sorted(found.items()))),
            Text("serves it" if (rollout.policy, rollout.version) in here else "the version before"),
            Text(rollout.state, "" if rollout.state in {"under way", "complete"} else "bold red"),
        )
    return table


def _in_force_at(policy: PolicyBody, members: Iterable[MemberBody]) -> str:
    alive = [member for member in members if member.state == "alive"]
    applied = sum(1 for member in alive if member.applied.get(policy.policy) == policy.version)
    return f"{applied}/{len(alive)}"


def _caught(view: ViewBody) -> Table:
    """Keys that said two things, with what proves it."""
    table = _table("Caught saying two things", "who", "where", "what follows", "evidence")
    for caught in view.quarantined:
        follows = "its key never votes again" if caught.spent else "no vote until it begins anew"
        table.add_row(
            Text(f"node {caught.node[:ID_CHARS]}"),
            Text(f"{caught.site}, incarnation {', '.join(map(str, caught.incarnations))}"),
            Text(follows, "bold red" if caught.spent else "yellow"),
            Text(" ".join(cell[:ID_CHARS] for cell in caught.evidence)),
        )
    for fork in view.forked:
        table.add_row(
            Text(f"author {fork.author[:ID_CHARS]}"),
            Text(f"op {fork.seq}"),
            Text("what it published from there on counts for nothing", "bold red"),
            Text(" ".join(op[:ID_CHARS] for op in fork.evidence)),
        )
    return table


def _losses(view: ViewBody) -> list[tuple[str, int]]:
    """The counters of what was refused or dropped, the greatest first."""
    found = [(name, count) for name, count in view.counters.items() if count and _LOSS.search(name)]
    return sorted(found, key=lambda counted: (-counted[1], counted[0]))


def _lost(losses: Sequence[tuple[str, int]]) -> Table:
    table = _table("Refused and dropped", "what", "how often")
    for name, count in losses[:LOSSES_SHOWN]:
        table.add_row(Text(name), Text(str(count)))
    if len(losses) > LOSSES_SHOWN:
        table.add_row(Text(f"and {len(losses) - LOSSES_SHOWN} more: --json has them", "dim"), Text(""))
    return table


def _events(view: ViewBody) -> Table:
    table = _table("Events", "ago", "what", "")
    for event in view.events[-EVENTS_SHOWN:]:
        at_ms = event.get("at_ms", 0)
        table.add_row(
            Text(age(at_ms if isinstance(at_ms, int) else 0, view.now_ms)),
            Text(str(event.get("kind", ""))),
            Text(str(event.get("text", ""))),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, header_style="dim")
    return table


def _level(level: str) -> Text:
    return _level_text(level, level)


def _level_text(text: str | None, level: str) -> Text:
    """Coloured by level; where that could not be seen, the level is in the text."""
    shown = text or ""
    return Text(shown if shown == level else f"{shown}:{level}", _LEVEL_STYLE.get(level, ""))
