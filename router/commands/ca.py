"""`edgelattice ca`: who may be a node, an operator, a controller, a viewer, or speak for a region."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from lattice.certificates import (
    ISSUED_DAYS,
    ISSUED_DAYS_MAX,
    CertificateError,
    date_text,
    read_certificate,
    read_request,
)
from lattice.grants import Role
from lattice.identity import author_id_of, node_id_of, private_key_from, public_key_of
from lattice.types import Micros, short
from router.commands.failing import EXIT_USAGE, CommandError
from router.commands.init import write_bundle
from router.commands.shared import client_for, control_option
from router.control.body import DEFAULT_POLICY
from router.control.client import ControlClient, ControlError
from router.site.ca_dir import CA_CERTIFICATE_FILE, CA_REVOKED_FILE, CaDir, CaError
from router.site.config_reader import NotExpected, site_name
from router.site.key_file import KeyFileError, read_secret, replace_file, write_secret
from router.site.site_init import SITE_FILE, InitError

AUTHORS = frozenset({Role.OPERATOR, Role.CONTROLLER})
"""Whose word is kept and counts by its place in a chain."""

_ca_option = click.option(
    "--ca",
    "directory",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where the CA's files are: the first site's directory, or where you moved them.  [default: .]",
)


@click.group()
def ca() -> None:
    """Certify nodes and people, and take it back.

    \b
        edgelattice ca issue --ca ams --role node --request node.csr --out node.crt
        edgelattice ca issue --ca ams --role operator --name eva        makes eva.key and eva.crt
        edgelattice ca revoke --ca ams eva
        edgelattice ca show --ca ams
    """


@ca.command("init")
@click.option("--cluster", required=True, metavar="NAME", help="The cluster's name, as in its site files.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), default=Path(), help="Where.  [default: .]")
def init_command(cluster: str, directory: Path) -> None:
    """Make a CA for a cluster that has none.

    `edgelattice init` makes one with the first site.
    """
    try:
        site_name(cluster)
        made = CaDir.create(directory, cluster, _now())
    except NotExpected as wrong:
        raise CommandError(f"--cluster {cluster!r}: expected {wrong.expected}", EXIT_USAGE) from None
    except CaError as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    click.echo(
        f"Wrote {directory / CA_CERTIFICATE_FILE} (for every site) and its key, until {_day(made.authority.not_after)}."
    )


@ca.command("issue")
@_ca_option
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True)
@click.option("--name", default=None, metavar="NAME", help="Whose it is.  [default: as the request says]")
@click.option("--request", type=click.Path(path_type=Path), metavar="CSR", help="A node's request, as `init` wrote it.")
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="Certify this key; else a new one is made."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="CRT", help="Where to.  [default: NAME.crt]")
@click.option("--days", type=click.IntRange(1, ISSUED_DAYS_MAX), default=ISSUED_DAYS, show_default=True)
@click.option("--replace", is_flag=True, help="Replace an older certificate at --out.")
def issue_command(
    directory: Path,
    role: str,
    name: str | None,
    request: Path | None,
    key: Path | None,
    out: Path | None,
    days: int,
    replace: bool,
) -> None:
    """Certify a key for a role.

    A node's key never leaves its site: `init --join BUNDLE` writes a request there, and it is certified here.
    """
    if request is not None and key is not None:
        raise CommandError("--request and --key: a certificate is for one key; drop one", EXIT_USAGE)
    if request is not None and role != Role.NODE:
        raise CommandError(
            f"--request is a node's, whose key stays there: --role node; whoever is {role} has a key of their own",
            EXIT_USAGE,
        )
    if role == Role.NODE and request is None and key is None:
        raise CommandError("--role node: a node has its key already; give its --request (node.csr)", EXIT_USAGE)
    try:
        authority = CaDir(directory)
        asked, public = (None, None) if request is None else read_request(request.read_bytes())
        called = name or asked
        if called is None:
            raise CommandError("--name is missing: whose certificate is it?", EXIT_USAGE)
        site_name(called)
        target = out or Path(f"{called}.crt")
        if target.is_dir():
            raise CommandError(f"{target} is a directory; --out names a file", EXIT_USAGE)
        if target.exists() and not replace:
            raise CommandError(
                f"{target} exists, and nothing is replaced; --replace does, --out names another", EXIT_USAGE
            )
        made = None
        if key is not None:
            public = public_key_of(read_secret(key, "key")[0])
        if public is None:
            made, secret = target.with_suffix(".key"), private_key_from(os.urandom(64))
            write_secret(made, secret, f"edgelattice {role} {called}")
            public = public_key_of(secret)
        certificate = authority.issue(public, Role(role), called, _now(), days)
        replace_file(target, certificate.pem, 0o644)
    except NotExpected as wrong:
        raise CommandError(f"--name {called!r}: expected {wrong.expected}", EXIT_USAGE) from None
    except FileExistsError as error:
        raise CommandError(f"{error.filename} exists, and nothing is replaced; --key uses it", EXIT_USAGE) from None
    except OSError as error:
        raise CommandError(f"{error.filename}: {(error.strerror or '').lower()}", EXIT_USAGE) from None
    except CertificateError as error:
        raise CommandError(f"{request}: {error}", EXIT_USAGE) from None
    except (CaError, KeyFileError) as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    click.echo(f"Wrote {target}{f' and {made}' if made else ''}: {role} {called} until {_day(certificate.not_after)}.")
    if role in AUTHORS:
        click.echo(f"Sites take what it publishes as long as {target} is beside the key; public key {public.hex()}")


@ca.command("revoke")
@_ca_option
@click.argument("which", metavar="NAME|SERIAL|PUBLIC-KEY")
@control_option
@click.option("--withdraw", is_flag=True, help="Of an operator: withdraw all that the key ever published, too.")
def revoke_command(directory: Path, which: str, control: str | None, withdraw: bool) -> None:
    """Take keys back, for good.

    A revoked node is not listened to any more. What a revoked operator published up to now goes on counting, so the
    node that is asked must know its last op: everything after it is refused, whatever date it bears.

    The word goes to the node at --control, which tells all others; it is kept in ca.revoked, too. A node that finds it
    beside its ca.crt passes it on as well.
    """
    try:
        authority = CaDir(directory)
        gone = authority.revoked()
        found = {one.public_key: one for one in authority.find(which) if node_id_of(one.public_key) not in gone}
        if not found:
            raise CommandError(f"{which!r} is revoked already")
        client = client_for(control)
        revocations = []
        for public_key, issued in found.items():
            seq, op = (0, bytes(16)) if issued.role not in AUTHORS or withdraw else _last_op(client, public_key)
            revocations.append(authority.revoke(public_key, seq, op))
            whose = f"{issued.role} {issued.name}".strip()
            click.echo(f"revoked {whose} {public_key.hex()}" + (f"; op {seq} is its last that counts" if seq else ""))
    except CaError as error:
        raise CommandError(str(error)) from None
    try:
        client.submit_revocations([revocation.data for revocation in revocations])
    except ControlError as error:
        if error.status == 503:
            raise CommandError(f"it is written down, but the node can not promise to keep it: {error}") from None
        raise CommandError(
            f"it is written down, and no node has confirmed it: {error}\nCopy {directory / CA_REVOKED_FILE} beside the "
            "ca.crt of any site that runs: it tells the others."
        ) from None
    click.echo(f"{client.url} knows, and tells all other nodes.")


def _last_op(client: ControlClient, public_key: bytes) -> tuple[int, bytes]:
    """Where an author's chain stands, as a node knows it: what leads up to there goes on counting."""
    try:
        head = client.head(DEFAULT_POLICY, author_id_of(public_key))
    except ControlError as error:
        raise CommandError(
            f"nothing was revoked: which op of that operator shall be the last to count? A node knows: {error}\n"
            "--control names one; --withdraw withdraws all that the key ever published"
        ) from None
    return head.seq, bytes.fromhex(head.previous)


@ca.command("show")
@_ca_option
@click.argument("certificate", type=click.Path(path_type=Path), required=False)
def show_command(directory: Path, certificate: Path | None) -> None:
    """Show what was issued, or what one certificate says."""
    if certificate is not None and certificate.is_dir():
        raise CommandError(
            f"{certificate} is a directory; what a CA has issued: edgelattice ca show --ca {certificate}", EXIT_USAGE
        )
    try:
        if certificate is not None:
            found = read_certificate(certificate.read_bytes())
            node = f" node {short(found.node)}" if found.role is Role.NODE else ""
            click.echo(f"{found.role} {found.name} of {found.cluster}{node}")
            click.echo(f"from {date_text(found.not_before)} to {date_text(found.not_after)}")
            click.echo(f"serial {found.serial:032x} key {found.public_key.hex()}")
            return
        authority = CaDir(directory)
        revoked = authority.revoked()
    except (CaError, CertificateError) as error:
        raise CommandError(
            str(error) if isinstance(error, CaError) else f"{certificate}: {error}", EXIT_USAGE
        ) from None
    except OSError as error:
        raise CommandError(f"{error.filename}: {(error.strerror or '').lower()}", EXIT_USAGE) from None
    click.echo(f"CA of {authority.authority.cluster} until {_day(authority.authority.not_after)}")
    for issued in authority.issued():
        state = "  revoked" if node_id_of(issued.public_key) in revoked else ""
        click.echo(f"{issued.role:10} {issued.name:32} until {issued.until}  {issued.serial:032x}{state}")


@ca.command("bundle")
@click.argument("site", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to; for your eyes alone.")
def bundle_command(site: Path, out: Path) -> None:
    """Write what a site on another machine needs to join.

    The cluster's name, keys, authors, seeds and CA certificate; no private key of the CA or of an operator.
    """
    try:
        write_bundle(site / SITE_FILE if site.is_dir() else site, out)
    except InitError as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    click.echo(f"Wrote {out}. On the other machine: edgelattice init --site NAME --dir DIR --join {out.name}")


def _now() -> Micros:
    return Micros(time.time_ns() // 1_000)


def _day(at: Micros) -> str:
    return date_text(at).partition(" ")[0]
