"""A node that terminates TLS: it serves, renews its certificate while it runs, and complains of one it cannot use."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trustme

from lattice.types import Endpoint
from router.credentials import Credentials
from router.errors import StartError
from router.site.server_certificate import read_server_certificate
from router.site.site_config import SiteConfig
from router.site.site_file import load_site_config
from router.site.state_dir import node_key_in
from tests.router.test_credentials import now, said
from tests.router.test_node import running, site_config, until
from tests.router.traffic.test_server_tls import write

CA = trustme.CA()


def with_tls(directory: Path) -> SiteConfig:
    site_config(directory, "ams")
    write(directory, CA, "shop.test")
    text = (directory / "site.toml").read_text()
    text = text.replace('[http]\nlisten = ["127.0.0.1:0"]', '[http]\ntls_listen = ["127.0.0.1:0"]')
    (directory / "site.toml").write_text(text + '[[tls.certificates]]\nchain = "site.crt"\nkey = "site.key"\n')
    return load_site_config(directory / "site.toml")


async def names_shown(endpoint: Endpoint, name: str) -> tuple[list[str], bytes]:
    """The certificate's names, and the answer to a request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    stream = trio.SSLStream(await trio.open_tcp_stream(*endpoint), context, server_hostname=name, https_compatible=True)
    async with stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
        answer = b"".join([bytes(part) async for part in stream])
        return [value for _, value in stream.getpeercert()["subjectAltName"]], answer


async def test_a_node_serves_https_and_takes_up_what_is_renewed(tmp_path: Path) -> None:
    hang_up, hangups = trio.open_memory_channel[None](1)
    async with running(with_tls(tmp_path / "ams"), hangups) as ams:
        assert ams.bound.http == ()
        (https,) = ams.bound.https
        names, answer = await names_shown(https, "shop.test")
        assert names == ["shop.test"]
        assert answer.startswith(b"HTTP/1.1 503 ")  # no policy yet, and said over TLS

        write(tmp_path / "ams", CA, "shop.test", "new.test")
        await hang_up.send(None)
        await until(lambda: said(ams, "tls", "for shop.test, new.test until "))
        assert (await names_shown(https, "new.test"))[0] == ["shop.test", "new.test"]

        (tmp_path / "ams" / "site.crt").write_text("junk")
        await until(lambda: said(ams, "tls", "no PEM certificate in it; the certificate that was in force stays"))
        assert (await names_shown(https, "new.test"))[0] == ["shop.test", "new.test"]


def test_a_certificate_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    config = with_tls(tmp_path / "ams")
    (tmp_path / "ams" / "site.key").chmod(0o644)
    with pytest.raises(StartError, match=r"tls\.certificates: .*everyone on this machine can read the TLS key"):
        Credentials(config, node_key_in(config.site.state_dir), now)


def test_the_end_of_a_certificate_is_told_in_time(tmp_path: Path) -> None:
    config = with_tls(tmp_path / "ams")
    fine = Credentials(config, node_key_in(config.site.state_dir), now)
    assert fine.expiries() == []
    assert fine.server_tls is not None
    end = fine.server_tls.certificates[0].not_after
    late = Credentials(config, node_key_in(config.site.state_dir), lambda: end)
    (warning,) = late.expiries()
    assert warning.startswith(f"{tmp_path / 'ams' / 'site.crt'} expires on ")


def test_the_end_of_what_endpoints_are_shown_is_told_too(tmp_path: Path) -> None:
    with_tls(tmp_path / "ams")
    text = (tmp_path / "ams" / "site.toml").read_text()
    shown = text.replace("[[tls.certificates]]\nchain =", "[upstream]\ncertificate =").replace("tls_listen", "listen")
    (tmp_path / "ams" / "site.toml").write_text(shown)
    config = load_site_config(tmp_path / "ams" / "site.toml")
    assert Credentials(config, node_key_in(config.site.state_dir), now).expiries() == []
    end = read_server_certificate((tmp_path / "ams" / "site.crt").read_bytes()).not_after
    (warning,) = Credentials(config, node_key_in(config.site.state_dir), lambda: end).expiries()
    assert warning.startswith(f"{tmp_path / 'ams' / 'site.crt'}, shown to endpoints, expires on ")
