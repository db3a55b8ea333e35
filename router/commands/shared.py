"""What commands have in common: which site, and which node, they are about.

Site files and certificates are read by modules that bring half a node with them, so these are imported by who meets
one: most commands ask this machine's node by plain HTTP, and answer in half the time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.commands.failing import EXIT_USAGE, CommandError
from router.control.client import CONTROL_URL, ControlClient, control_url

if TYPE_CHECKING:
    from router.control.shown import Shown
    from router.site.site_config import SiteConfig

CONTROL_ENVIRONMENT = "EDGELATTICE_CONTROL"
CERTIFICATE_ENVIRONMENT = "EDGELATTICE_CERTIFICATE"


def control_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--control`."""
    return click.option(
        "--control",
        metavar="URL",
        envvar=CONTROL_ENVIRONMENT,
        show_envvar=True,
        help="Control address of the node to ask, as in its ready line; https:// shows it the certificate that "
        "EDGELATTICE_CERTIFICATE names.  [default: http://127.0.0.1:8180]",
    )(command)


def load_site(path: Path) -> SiteConfig:
    """A site file, or the directory that holds it; or the `CommandError` that says what is wrong."""
    from router.site.config_reader import ConfigError
    from router.site.site_file import load_site_config

    try:
        return load_site_config(path / "site.toml" if path.is_dir() else path)
    except ConfigError as error:
        raise CommandError(str(error), EXIT_USAGE) from None


def client_for(control: str | None, site_toml: Path | None = None) -> ControlClient:
    """The node that the options name; this machine's when they name none."""
    if site_toml is not None and control is None:
        from router.site.config_reader import endpoint_text

        endpoint = load_site(site_toml).control.listen
        if endpoint[1] == 0:
            raise CommandError(
                f"{site_toml}: control.listen leaves the port to the kernel; give --control with the address from the "
                "node's ready line",
                EXIT_USAGE,
            )
        control = endpoint_text(endpoint)
        if load_site(site_toml).control.tls:
            control = f"https://{control}"
    try:
        url = control_url(control or CONTROL_URL)
        return ControlClient(url, shown=_shown() if url.startswith("https:") else None)
    except ValueError as error:
        raise CommandError(f"--control: {error}", EXIT_USAGE) from None


def _shown() -> Shown:
    from router.control.shown import Shown, ShownError

    named = os.environ.get(CERTIFICATE_ENVIRONMENT, "")
    if not named:
        raise CommandError(
            f"an https address asks who you are: set {CERTIFICATE_ENVIRONMENT} to your certificate (NAME.crt, with "
            "NAME.key and the cluster's ca.crt beside it)",
            EXIT_USAGE,
        )
    try:
        return Shown(Path(named))
    except ShownError as error:
        raise CommandError(f"{CERTIFICATE_ENVIRONMENT}: {error}", EXIT_USAGE) from None
