"""`edgelattice policy resolve` and `policy compact`: what only the holder of an author's key can mend."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import msgspec
from rich.table import Table
from rich.text import Text

from lattice.policy_content import check_policy_name
from lattice.types import VersionId
from router.commands.failing import EXIT_FAILED, EXIT_USAGE, CommandError, complain
from router.commands.operator import key_option, operator_of
from router.commands.publishing import not_done
from router.commands.shared import client_for, control_option
from router.commands.status_screen import ID_CHARS, age, console
from router.control.author_chain import AuthorChain
from router.control.body import DEFAULT_POLICY, StandingBody
from router.control.client import ControlError
from router.control.publish import Compacted, compact, resolve

KEEP_CHARS_MIN = 4
DELETED = "deleted"


class ResolvedBody(msgspec.Struct, frozen=True):
    """`policy resolve --json`. Nothing was published when `version` is null."""

    policy: str
    standing: list[StandingBody]
    kept: str | None
    version: str | None


class CompactedBody(msgspec.Struct, frozen=True):
    """`policy compact --json`. `done` is false when there was nothing to gain, and for a dry run."""

    done: bool
    ops_before: int
    bytes_before: int
    ops: int
    bytes: int
    policies: list[str]


@click.command("resolve")
@key_option
@control_option
@click.option("--name", default=DEFAULT_POLICY, show_default=True, help="Which policy.")
@click.option("--keep", metavar="VERSION", default=None, help="The version to keep, by its first digits; or `deleted`.")
@click.option("-m", "--message", default=None, help="Why.  [default: keep VERSION]")
@click.option("--json", "as_json", is_flag=True, help="As JSON; without --keep, what there is to choose from.")
def resolve_command(
    key_file: Path, control: str | None, name: str, keep: str | None, message: str | None, as_json: bool
) -> int:
    """End a conflict: two versions of a policy that were published without knowing of each other.

    Both are kept and shown; the later one serves, on every site alike. This publishes the version that you choose once
    more, as the successor of all of them.

    \b
        edgelattice policy resolve --key ams/operator.key                  shows them, and asks
        edgelattice policy resolve --key ams/operator.key --keep 5f2c      for scripts

    Exit status 0 when one version stands in the end, 1 when the choice is still to be made.
    """
    operator = operator_of(key_file)
    try:
        check_policy_name(name)
        client = client_for(control)
        standing = client.versions(name).versions
        if len(standing) < 2:
            if as_json:
                click.echo(msgspec.json.encode(ResolvedBody(name, standing, None, None)))
            else:
                click.echo(f"{name}: {'one version stands' if standing else 'no such policy'}; nothing to resolve")
            return 0
        if not as_json:
            console().print(_standing_table(name, standing))
        if keep is None and not as_json and sys.stdin.isatty():
            keep = click.prompt("Which version shall serve", default=_label(standing[0]))
        if keep is None:
            if as_json:
                click.echo(msgspec.json.encode(ResolvedBody(name, standing, None, None)))
            complain(f"{len(standing)} versions stand; say which shall serve: --keep {_label(standing[0])}")
            return EXIT_FAILED
        chosen = _chosen(keep, standing)
        why = message if message is not None else f"keep {_label(chosen)}"
        now_ms, memory = time.time_ns() // 1_000_000, AuthorChain(key_file)
        version = VersionId(bytes.fromhex(chosen.version))
        published, cluster = resolve(
            client, operator.private_key, name, version, chosen.text, why, now_ms, memory, operator.grant
        )
    except (ControlError, ValueError, OSError) as error:
        raise not_done("published", error, key_file) from None
    if as_json:
        click.echo(msgspec.json.encode(ResolvedBody(name, standing, chosen.version, published.version)))
    else:
        ended = " ".join(_label(other) for other in standing)
        click.echo(f"published {name} {published.version[:ID_CHARS]} to cluster {cluster}: it ends {ended}")
    return 0


def _standing_table(name: str, standing: list[StandingBody]) -> Table:
    now_ms = time.time_ns() // 1_000_000
    table = Table(title=f"Versions of {name} that stand", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("version", "author", "published", "lines", "", "message"):
        table.add_column(column, header_style="dim")
    for version in standing:
        table.add_row(
            Text(_label(version)),
            Text(version.author[:ID_CHARS]),
            Text(age(version.published_ms, now_ms) + " ago"),
            Text("-" if version.text is None else str(version.text.count("\n"))),
            Text("serves", "green") if version.serves else Text("stands against it", "yellow"),
            Text(version.message),
        )
    return table


def _label(version: StandingBody) -> str:
    return DELETED if version.text is None else version.version[:ID_CHARS]


def _chosen(keep: str, standing: list[StandingBody]) -> StandingBody:
    """The version that `keep` names. Raises `CommandError`."""
    if keep == DELETED:
        found = [version for version in standing if version.text is None]
    else:
        found = [
            version for version in standing if version.text is not None and version.version.startswith(keep.lower())
        ]
    if len(found) == 1 and len(keep) >= KEEP_CHARS_MIN:
        return found[0]
    there_are = ", ".join(_label(version) for version in standing)
    wrong = "names several" if len(found) > 1 else f"names none (at least {KEEP_CHARS_MIN} digits)"
    raise CommandError(f"--keep {keep!r} {wrong}; there are {there_are}", EXIT_USAGE)


@click.command("compact")
@key_option
@control_option
@click.option("--dry-run", is_flag=True, help="Say what it would save.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def compact_command(key_file: Path, control: str | None, dry_run: bool, as_json: bool) -> None:
    """Forget history: sign a checkpoint of what still lives of this key's policies.

    Every publish stays in each site's store until its author makes a checkpoint: it states anew the versions that
    stand, and whatever the key published before is void on every site. No version changes. It is made by itself along
    with a publish once more than half of what the key published is dead; this makes it now.

    \b
        edgelattice policy compact --key ams/operator.key --dry-run

    The ops are fetched from the node and their signatures checked here. Whatever another machine publishes with the
    same key at the same moment may be lost, so make it where you publish.
    """
    operator = operator_of(key_file)
    try:
        done = compact(
            client_for(control),
            operator.private_key,
            time.time_ns() // 1_000_000,
            AuthorChain(key_file),
            operator.grant,
            dry_run=dry_run,
        )
    except (ControlError, ValueError, OSError) as error:
        raise not_done("compacted", error, key_file) from None
    if as_json:
        body = CompactedBody(False, 0, 0, 0, 0, [])
        if done is not None:
            body = CompactedBody(
                not dry_run, done.ops_before, done.bytes_before, done.ops, done.bytes, list(done.policies)
            )
        click.echo(msgspec.json.encode(body))
    elif done is None:
        click.echo("nothing to gain: all that this key published still lives")
    else:
        click.echo(f"{'would compact' if dry_run else 'compacted'} {said(done)}")


def said(done: Compacted) -> str:
    """What a checkpoint did, in words."""
    live = f"; {', '.join(done.policies)} unchanged" if done.policies else "; nothing of it lives"
    return f"{done.ops_before} ops of {done.bytes_before} bytes into {done.ops} of {done.bytes}{live}"
