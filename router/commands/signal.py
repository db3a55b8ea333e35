"""`edgelattice signal`: a region says how it is."""

from __future__ import annotations

import time
from pathlib import Path

import click

from lattice.certificates import CertificateError, read_certificate
from lattice.grants import Role
from lattice.identity import Ed25519Signer, public_key_of
from router.commands.failing import EXIT_USAGE, CommandError
from router.commands.numbers import Number
from router.commands.shared import client_for, control_option
from router.control.answers import proof_body, signal_of
from router.control.body import DEFAULT_POLICY, UpdateBody
from router.control.client import ControlClient, ControlError
from router.health.region_word import sign_signal
from router.policy import PolicyError, parse
from router.site.key_file import KeyFileError, read_secret

_MADE_BY = "`edgelattice ca issue --role region --name REGION` makes a region's key and certificate"


@click.command()
@click.option(
    "--key",
    "key_file",
    type=click.Path(path_type=Path),
    required=True,
    help="The region's key, with its certificate beside it: `ca issue --role region --name REGION` makes both.",
)
@click.option("--latency-ms", type=Number(0), default=0.0, help="As the region measures it.")
@click.option("--error-rate", type=Number(0, 1), default=0.0, help="Share of requests that fail.")
@click.option("--capacity-pct", type=Number(0, 100), default=0.0, help="Share of its capacity in use.")
@click.option("--rps", type=Number(0), help="In its place: requests a second, of the policy's `capacity`.")
@control_option
def signal(
    key_file: Path,
    latency_ms: float,
    error_rate: float,
    capacity_pct: float,
    rps: float | None,
    control: str | None,
) -> None:
    """Say how a region is, signed with its own key.

    It counts for 30 seconds, can make the region's level worse than what sites see, never better, and tells them how
    full it is. A region that signs is believed only when it signs.

    \b
        edgelattice signal --key fra.key --capacity-pct 80 --control 127.0.0.1:8180
        edgelattice signal --key fra.key --rps 3200 --control 127.0.0.1:8180
    """
    certificate_file = key_file.with_suffix(".crt")
    for file in (key_file, certificate_file):
        if not file.exists():
            raise CommandError(f"{file}: no such file; {_MADE_BY}", EXIT_USAGE)
    try:
        key, _ = read_secret(key_file, "region's key")
        certificate = read_certificate(certificate_file.read_bytes())
    except KeyFileError as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    except OSError as error:
        raise CommandError(f"{certificate_file}: {(error.strerror or '').lower()}", EXIT_USAGE) from None
    except CertificateError as error:
        raise CommandError(f"{certificate_file}: {error}", EXIT_USAGE) from None
    if certificate.role is not Role.REGION or certificate.public_key != public_key_of(key) or certificate.grant is None:
        raise CommandError(f"{certificate_file}: not the certificate of a region with this key; {_MADE_BY}", EXIT_USAGE)
    client = client_for(control)
    try:
        if rps is not None:
            if capacity_pct:
                raise CommandError("--rps: give it or --capacity-pct; both say how full the region is", EXIT_USAGE)
            capacity_pct = share_of_capacity(_policy_text(client), certificate.name, rps)
        update = UpdateBody(certificate.name, latency_ms, error_rate, capacity_pct, time.time_ns() // 1_000_000)
        proof = sign_signal(Ed25519Signer(key, certificate.cluster, certificate.grant), signal_of(update, 0))
        client.update(update, proof_body(proof))
    except ControlError as error:
        raise CommandError(f"nothing was said: {error}") from None


def _policy_text(client: ControlClient) -> str:
    """Raises `CommandError` behind TLS, where a region is told nothing, and `ControlError`."""
    try:
        return client.policy_text(DEFAULT_POLICY)
    except ControlError as error:
        if error.status != 403:
            raise
        raise CommandError("--rps: a region may not read the policy there; give --capacity-pct") from None


def share_of_capacity(policy: str, name: str, rps: float) -> float:
    """How full a region is, in per cent, that serves so much of the capacity its policy declares; above it, 100.

    Raises `CommandError`.
    """
    try:
        regions = {region.name: region for region in parse(policy, DEFAULT_POLICY).regions}
    except PolicyError as error:
        raise CommandError(f"the node's policy is not known to this version: {error}") from None
    capacity = regions[name].capacity_rps if name in regions else None
    if capacity is None:
        raise CommandError(
            f"--rps: the policy in force declares no capacity for region {name}; add a line there: capacity 4000rps, "
            "or give --capacity-pct",
            EXIT_USAGE,
        )
    return min(100.0, 100 * rps / capacity)
