"""The node's keys and certificates while it runs: read when their files change, and complained about in time (edge).

A file that cannot be used changes nothing: what was in force stays, and the log and the journal say why.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import trio

from lattice.certificates import (
    WARN_US,
    Authority,
    Certificate,
    CertificateError,
    date_text,
    make_request,
    read_certificate,
    read_request,
)
from lattice.errors import MalformedError, UntrustedError
from lattice.events import Certified, LocalChange, RevocationsSubmitted
from lattice.grants import Role
from lattice.identity import Grant, node_id_of, public_key_of
from lattice.seal import Plain, Sealed
from lattice.stream_security import StreamSecurity
from lattice.types import SECOND, Micros
from router.control.target import KeysState, KeyState, PeerKeys
from router.errors import StartError
from router.journal import Journal
from router.site.ca_dir import read_revoked
from router.site.key_file import KeyFileError, read_key_ring, replace_file
from router.site.server_certificate import ServerCertificateError, read_server_certificate
from router.site.site_config import REQUEST_FILE, CertificateFiles, SiteConfig
from router.traffic.server_tls import ServerTls, ServerTlsError
from router.traffic.upstream_tls import UpstreamTls, UpstreamTlsError

log = logging.getLogger("edgelattice.credentials")

WATCH_INTERVAL_US = SECOND
"""How often the files' times are looked at: two or four stat calls."""
WARN_AGAIN_US = 24 * 3_600 * SECOND
TRY_AGAIN_US = 60 * SECOND
"""After so long a new certificate that could not be used is looked at again: it may only begin later by our clock."""


class CredentialError(Exception):
    """Files that cannot be used together; says which and why. Nothing was changed."""


class Credentials:
    """What seals the node's frames and secures its streams."""

    def __init__(self, config: SiteConfig, node_key: bytes, now: Callable[[], Micros]) -> None:
        """Raises `StartError` for files that cannot be used."""
        self._config = config
        self._node_key = node_key
        self._now = now
        self._warned: Micros | None = None
        self._try_again_at: Micros | None = None
        self._complained = ""
        """Of the certificate's files, last."""
        self._security: StreamSecurity | None = None
        self._shown_until: Micros | None = None
        """When what endpoints are shown ends, if it is not the node's own."""
        cluster = config.cluster
        self.seal: Plain = Plain(cluster.name) if cluster.keys is None else Sealed(cluster.name, cluster.keys)
        self._stamps = self._look()
        if cluster.certificates is not None:
            try:
                self._security = self._load(cluster.certificates)
            except CredentialError as error:
                clock = f"; this machine's clock says {date_text(now())}" if "not yet valid" in str(error) else ""
                key = "ca" if str(error).startswith(f"{cluster.certificates.ca}: ") else "certificate"
                raise StartError(f"cluster.{key}: {error}{clock}") from None
        self.server_tls: ServerTls | None = None
        """What clients of `http.tls_listen` are shown; None without."""
        try:
            if config.http.tls_listen:
                self.server_tls = _new_server_tls(config)
            self.upstream_tls = self._new_upstream_tls()
            """Made anew, as a whole, when one of its files changes."""
        except ServerTlsError as error:
            raise StartError(f"tls.certificates: {error}") from None
        except UpstreamTlsError as error:
            raise StartError(str(error)) from None

    @property
    def security(self) -> StreamSecurity | None:
        return self._security

    def security_now(self) -> StreamSecurity:
        """As `security`, where there is a CA."""
        assert self._security is not None, "the site file is refused otherwise"
        return self._security

    @property
    def ca_key(self) -> bytes | None:
        """The public key of the cluster's CA; None without one."""
        return None if self._security is None else self._security.authority.public_key

    @property
    def grant(self) -> Grant | None:
        """What this node's row shows of its certificate."""
        return None if self._security is None else self._security.certificate.grant

    async def keep(
        self,
        secure: Callable[[StreamSecurity], None],
        submit: Callable[[LocalChange], Awaitable[None]],
        connect_as: Callable[[UpstreamTls], None],
        journal: Journal,
    ) -> None:
        """Watch the files until cancelled. `secure` and `connect_as` get what is new towards peers and endpoints,
        `submit` the grant of a new certificate, and what was revoked."""
        await self._take_revoked(submit, journal)
        while True:
            self._warn(journal)
            await trio.sleep(WATCH_INTERVAL_US / SECOND)
            stamps = self._look()
            changed = {path for path, stamp in stamps.items() if stamp != self._stamps.get(path)}
            self._stamps = stamps
            if self._config.cluster.key_file in changed:
                self._take_keys(journal)
            files = self._config.cluster.certificates
            again = self._try_again_at is not None and self._now() >= self._try_again_at
            if files is not None and (again or changed & {files.ca, files.certificate}):
                self._take_certificate(files, secure, journal)
                if self.grant is not None:
                    await submit(Certified(self.grant))
            if files is not None and files.revoked in changed:
                await self._take_revoked(submit, journal)
            if changed & {*self._upstream_files()}:
                self._take_upstream_tls(connect_as, journal)
            self.refresh_tls(journal)

    def refresh_tls(self, journal: Journal, *, everything: bool = False) -> None:
        """Show clients the certificates whose files have changed, or load them all anew."""
        if self.server_tls is None:
            return
        for found in self.server_tls.refresh(everything=everything):
            journal.note("tls", found.text)
            log.log(logging.INFO if found.ok else logging.ERROR, "%s", found.text)

    def take_site(self, config: SiteConfig) -> None:
        """Speak to users and endpoints by a site file that was read anew. Raises `CredentialError`; then nothing has
        changed. What stays the same keeps its sessions."""
        before, server_tls = self._config, self.server_tls
        try:
            if not config.http.tls_listen:
                server_tls = None
            elif server_tls is None or (config.tls, config.http.http2) != (before.tls, before.http.http2):
                server_tls = _new_server_tls(config)
            self._config = config
            if config.upstream != before.upstream:
                self.upstream_tls = self._new_upstream_tls()
        except (ServerTlsError, UpstreamTlsError) as error:
            self._config = before
            raise CredentialError(str(error)) from None
        self.server_tls = server_tls
        self._stamps = self._look()

    def _new_upstream_tls(self) -> UpstreamTls:
        upstream = self._config.upstream
        made = UpstreamTls(upstream.ca, upstream.certificate, self._security)
        self._shown_until = None
        if upstream.certificate is not None:
            with suppress(OSError, ServerCertificateError):  # its owner is at it: it is new, then
                self._shown_until = read_server_certificate(upstream.certificate.chain.read_bytes()).not_after
        return made

    def _take_upstream_tls(self, connect_as: Callable[[UpstreamTls], None], journal: Journal) -> None:
        try:
            self.upstream_tls = self._new_upstream_tls()
        except UpstreamTlsError as error:
            self._complain(journal, "tls", str(error))
            return
        connect_as(self.upstream_tls)
        log.info("connecting to endpoints with what upstream.ca and upstream.certificate hold now")

    def _upstream_files(self) -> list[Path]:
        """What endpoints are shown, and held against; the node's own certificate where no other is named."""
        upstream, own = self._config.upstream, self._config.cluster.certificates
        files = [] if upstream.ca is None else [upstream.ca]
        if upstream.certificate is not None:
            return [*files, upstream.certificate.chain, upstream.certificate.key]
        return files if own is None else [*files, own.ca, own.certificate]

    def state(self) -> KeysState:
        """The keys in force here, and what peers' frames say of theirs."""
        if not isinstance(self.seal, Sealed):
            return KeysState((), b"", ())
        ring = self.seal.ring
        keys = tuple(KeyState(key.id, key.label, key is ring.used) for key in ring.keys)
        peers = tuple(
            PeerKeys(
                node=node,
                key=heard.key,
                frames=tuple(heard.frames.items()),
                uses_ours=heard.key == ring.used.id,
                has_ours=heard.ring_tag == ring.tag,
            )
            for node, heard in self.seal.heard().items()
            if node != node_id_of(public_key_of(self._node_key))
        )
        return KeysState(keys, ring.tag, peers)

    def expiries(self) -> list[str]:
        """What to know about the ends of certificates; nothing while they are far away."""
        now = self._now()
        ends = []
        if self._security is not None:
            end, last = self._security.certificate.not_after, self._security.authority.not_after
            if end < last:
                ends.append(("the node's certificate", end, "`edgelattice ca issue` makes a new one"))
            else:
                remedy = "nothing that it issues outlives it; make a new CA, and certify every node and operator anew"
                ends.append(("the CA's own certificate", last, remedy))
        if self.server_tls is not None:
            for files, certificate in zip(self._config.tls.certificates, self.server_tls.certificates, strict=True):
                ends.append((f"{files.chain}", certificate.not_after, "have its authority renew it"))
        if (shown := self._config.upstream.certificate) is not None and self._shown_until is not None:
            ends.append((f"{shown.chain}, shown to endpoints,", self._shown_until, "have its authority renew it"))
        return [
            f"{what} {'expired' if end < now else 'expires'} on {date_text(end)}: {remedy}"
            for what, end, remedy in ends
            if end - now <= WARN_US
        ]

    def _warn(self, journal: Journal) -> None:
        texts, now = self.expiries(), self._now()
        if not texts:
            self._warned = None
        elif self._warned is None or now - self._warned >= WARN_AGAIN_US:
            self._warned = now
            for text in texts:
                journal.note("certificate", text)
                log.warning("%s", text)

    def _take_keys(self, journal: Journal) -> None:
        path = self._config.cluster.key_file
        assert path is not None
        assert isinstance(self.seal, Sealed)
        try:
            ring, _ = read_key_ring(path)
        except KeyFileError as error:
            self._complain(journal, "keys", str(error))
            return
        if ring != self.seal.ring:
            self.seal.rekey(ring)
            held = ", ".join(key.id.hex() for key in ring.keys[1:])
            text = f"sealing with key {ring.used.id.hex()} ({ring.used.label})" + (
                f"; opening {held} too" if held else ""
            )
            journal.note("keys", text)
            log.info("%s", text)

    def _take_certificate(
        self, files: CertificateFiles, secure: Callable[[StreamSecurity], None], journal: Journal
    ) -> None:
        assert self._security is not None
        try:
            security = self._load(files)
            if security.authority.public_key != self._security.authority.public_key:
                raise CredentialError(f"{files.ca}: another CA's; a node takes up a new CA when it starts")
        except CredentialError as error:
            self._try_again_at = Micros(self._now() + TRY_AGAIN_US)
            if str(error) != self._complained:
                self._complained = str(error)
                self._complain(journal, "certificate", str(error))
            return
        self._try_again_at, self._complained = None, ""
        self._security = security
        secure(security)
        text = f"certificate until {date_text(security.certificate.not_after)}"
        journal.note("certificate", text)
        log.info("%s", text)

    async def _take_revoked(self, submit: Callable[[LocalChange], Awaitable[None]], journal: Journal) -> None:
        files = self._config.cluster.certificates
        if files is None:
            return
        try:
            statements = read_revoked(files.revoked)
        except (OSError, MalformedError) as error:
            self._complain(journal, "certificate", f"{files.revoked}: {error}")
            return
        if statements:
            await submit(RevocationsSubmitted(statements))

    def _complain(self, journal: Journal, kind: str, text: str) -> None:
        journal.note(kind, f"{text}; what was in force stays")
        log.error("%s; what was in force stays", text)

    def _load(self, files: CertificateFiles) -> StreamSecurity:
        now = self._now()
        try:
            place = files.ca
            authority = Authority(files.ca.read_bytes())
            if authority.cluster != self._config.cluster.name:
                raise CredentialError(f"{place}: of cluster {authority.cluster!r}, not {self._config.cluster.name!r}")
            place = files.certificate
            certificate = read_certificate(files.certificate.read_bytes())
            if certificate.public_key != public_key_of(self._node_key):
                raise CredentialError(
                    f"{place}: of another key than this node's (one that lost its site.state_dir has made itself a new "
                    f"one); {self._remedy(place)}"
                )
            try:
                authority.judge(certificate.der, Role.NODE, now)
            except UntrustedError as error:
                if error.reason != "certificate expired":  # then it is worth starting, and complaining
                    raise
            self._check_site(place, certificate)
            return StreamSecurity(authority, certificate, self._node_key, self._config.site.state_dir)
        except FileNotFoundError:
            raise CredentialError(f"{place}: no such file; {self._remedy(files.certificate)}") from None
        except ssl.SSLError as error:
            raise CredentialError(f"{files.certificate}: {error.reason}") from None
        except (OSError, CertificateError, UntrustedError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            raise CredentialError(f"{place}: {said}") from None

    def _remedy(self, certificate: Path) -> str:
        """How to get one for our key: by the request that `init` wrote, or by one that is written now."""
        request = self._config.path.parent / REQUEST_FILE
        with suppress(OSError, CertificateError):
            if read_request(request.read_bytes())[1] == public_key_of(self._node_key):
                return _issue(request, certificate)
        request = self._config.site.state_dir / REQUEST_FILE
        with suppress(OSError):
            replace_file(request, make_request(self._node_key, self._config.site.name), 0o644)
        return _issue(request, certificate)

    def _check_site(self, place: Path, certificate: Certificate) -> None:
        """Peers would refuse every row of ours, and say so; we can say it better."""
        site = self._config.site.name
        if certificate.name != site:
            raise CredentialError(f"{place}: for site {certificate.name!r}, and this is {site!r}; issue one for it")
        if certificate.grant is None:
            raise CredentialError(f"{place}: has no grant for gossip; `edgelattice ca issue` makes one that has")

    def _look(self) -> dict[Path, tuple[int, int, int]]:
        cluster = self._config.cluster
        paths = [cluster.key_file, *self._upstream_files()]
        if cluster.certificates is not None:
            paths += [cluster.certificates.ca, cluster.certificates.certificate, cluster.certificates.revoked]
        stamps = {}
        for path in paths:
            if path is not None:
                try:
                    found = path.stat()
                except OSError:
                    continue  # seen as a change once it is back
                stamps[path] = (found.st_mtime_ns, found.st_ino, found.st_size)
        return stamps


def _issue(request: Path, certificate: Path) -> str:
    replace = " --replace" if certificate.exists() else ""
    return f"`edgelattice ca issue --role node --request {request} --out {certificate}{replace}` where the CA is"


def _new_server_tls(config: SiteConfig) -> ServerTls:
    protocols = ("h2", "http/1.1") if config.http.http2 else ("http/1.1",)
    return ServerTls(config.tls.certificates, config.tls.minimum, protocols)
