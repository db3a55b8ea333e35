"""The request that a command asks about: its options, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from router.commands.failing import EXIT_USAGE, CommandError
from router.decision.nearby import location_at
from router.decision.request import Request, upgrade_of
from router.policy.values import BadValueError, read_continent, read_country, read_method, read_place
from router.policy.zones import read_client

_PORTS = click.IntRange(0, 65_535)


def request_options(*, client_required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that say what a request is like; the command gets it as `request`."""
    options = [
        click.option(
            "--client", default="", required=client_required, metavar="ADDRESS", help="The user's IP address."
        ),
        click.option("--host", default="", help="The host asked for; of a TCP connection --sni says it."),
        click.option("--path", default="/", show_default=True),
        click.option("--method", default="GET", show_default=True),
        click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="May be repeated."),
        click.option("--country", default="", help="The user's country, like DE."),
        click.option("--continent", default="", help="AF, AN, AS, EU, NA, OC or SA."),
        click.option("--asn", default=0, type=click.IntRange(0, 4_294_967_295)),
        click.option("--location", default="", metavar="'LAT LON'", help="Where the user is, for `nearest to client`."),
        click.option("--port", default=0, type=_PORTS, help="Where it arrives, for rules on `port`."),
        click.option("--sni", default="", help="The name in its TLS handshake, for rules on `sni`."),
    ]

    def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def asked(
            client: str,
            host: str,
            path: str,
            method: str,
            headers: tuple[str, ...],
            country: str,
            continent: str,
            asn: int,
            location: str,
            port: int,
            sni: str,
            **others: Any,
        ) -> Any:
            if not host and not sni:
                raise CommandError("--host: say which host is asked for, or --sni of a TCP connection", EXIT_USAGE)
            if client and read_client(client) is None:
                raise CommandError(f"--client {client!r}: expected a numeric IP address", EXIT_USAGE)
            if not path.startswith(("/", "*")):
                raise CommandError(f"--path {path!r}: expected an absolute path; write /{path}", EXIT_USAGE)
            read = read_headers(headers)
            request = Request(
                client,
                host or sni,
                path,
                _word("--method", method, read_method),
                read,
                _word("--country", country, read_country),
                _word("--continent", continent, read_continent),
                asn,
                upgrade_of(read),
                port,
                sni,
                location_at(*read_where("--location", location)) if location else 0,
            )
            return command(request=request, **others)

        for option in reversed(options):
            asked = option(asked)
        return asked

    return with_options


def read_headers(lines: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """`NAME: VALUE`, as curl takes them. Raises `CommandError`."""
    found = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise CommandError(f"--header {line!r}: write NAME: VALUE", EXIT_USAGE)
        found.append((name.strip().lower(), value.strip()))
    return tuple(found)


def read_where(option: str, text: str) -> tuple[int, int]:
    """The place "LAT LON", in millionths of a degree. Raises `CommandError`."""
    try:
        return read_place(text)
    except BadValueError as error:
        raise CommandError(
            f"{option} {text!r}: {error.message}; expected latitude and longitude, like '50.11 8.68'", EXIT_USAGE
        ) from None


def _word(option: str, word: str, read: Callable[[str], str]) -> str:
    try:
        return read(word) if word else ""
    except BadValueError as error:
        hint = f"; {error.hint}" if error.hint else ""
        raise CommandError(f"{option}: {error.message}; expected {error.expected}{hint}", EXIT_USAGE) from None
