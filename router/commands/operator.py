"""Who publishes: a private key, and the certificate beside it if the cluster's CA made one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from lattice.certificates import CertificateError, date_text, read_certificate
from lattice.grants import Role
from lattice.identity import Grant, public_key_of
from lattice.types import SECOND
from router.commands.failing import EXIT_USAGE, CommandError, complain
from router.site.ca_dir import CA_KEY_FILE
from router.site.key_file import KeyFileError, read_secret

key_option = click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    required=True,
    help="The operator's private key; it stays here.",
)
"""Whose word it is."""


@dataclass(frozen=True, slots=True)
class Operator:
    private_key: bytes = field(repr=False)
    grant: Grant | None
    """None: the sites' own lists of authors must have the key."""
    role: Role = Role.OPERATOR


def operator_of(key_file: Path, *roles: Role) -> Operator:
    """Whose key file that is: an operator's, unless others of these `roles` will do. What is wrong with it, or its
    certificate, is a `CommandError`; less is said."""
    try:
        private_key, warning = read_secret(key_file, "operator's key")
    except KeyFileError as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    if warning is not None:
        complain(f"warning: {warning}")
    return _certified(private_key, key_file, roles or (Role.OPERATOR,))


def _certified(private_key: bytes, key_file: Path, roles: Sequence[Role]) -> Operator:
    """With the grant of the certificate beside the key, if there is one."""
    if key_file.name == CA_KEY_FILE:
        raise CommandError(f"{key_file} is the CA's, which writes no policy; give an operator's key", EXIT_USAGE)
    path = key_file.with_suffix(".crt")
    if path == key_file or not path.exists():
        return Operator(private_key, None)
    try:
        certificate = read_certificate(path.read_bytes())
    except (OSError, CertificateError) as error:
        raise CommandError(f"{path}: {error}; remove it, or have the CA issue it again", EXIT_USAGE) from None
    if certificate.public_key != public_key_of(private_key):
        raise CommandError(f"{path}: of another key than {key_file}; remove it, or issue it again", EXIT_USAGE)
    if certificate.role not in roles:
        what = "write policy" if Role.CONTROLLER not in roles else "say how a rollout goes on"
        raise CommandError(f"{path}: a {certificate.role} may not {what}; issue it with --role {roles[0]}", EXIT_USAGE)
    if certificate.not_after < time.time_ns() // 1_000:
        complain(
            f"warning: {path} expired on {date_text(certificate.not_after)}; sites take what you publish only if "
            f"policy.authors has the key. `edgelattice ca issue --role {certificate.role} --key {key_file} --replace` "
            "renews it"
        )
        return Operator(private_key, None, certificate.role)
    left_days = (certificate.not_after - time.time_ns() // 1_000) // (86_400 * SECOND)
    if left_days < 14:
        complain(f"warning: {path} expires on {date_text(certificate.not_after)}")
    return Operator(private_key, certificate.grant, certificate.role)
