"""Who may be what in a cluster: X.509 certificates (RFC 5280) with Ed25519 keys (RFC 8410), made and judged.

One CA key makes every certificate of its cluster, and nothing else does: chains have one step. A certificate binds a
public key to a name and a role (an organizational unit) within a cluster (the organization), for a while. A node's key
is the node's own, so its node id follows from it; a stream's two ends show one.

An extension of its own holds the CA's signature of the certificate's *grant* (`grants`): the same word in the few bytes
that a row or an op has room for. Keys are taken back by the CA's signed word as well, which is replicated.

Everything here is a function of bytes and a moment; the moment is a date, for that is what certificates speak of.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from warnings import catch_warnings, simplefilter

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID

from lattice.errors import UntrustedError
from lattice.grants import NAME_CHARS_MAX, Role, sign_grant
from lattice.identity import Ed25519Signer, Grant, node_id_of
from lattice.types import SECOND, Micros, NodeId

CA_DAYS: Final = 3_650
ISSUED_DAYS: Final = 90
"""As Let's Encrypt's: short enough that renewing is a habit, and that a stolen key is not for ever."""
ISSUED_DAYS_MAX: Final = 825
WARN_US: Final = 14 * 86_400 * SECOND
"""How long before the end of a certificate its holder begins to complain."""
BACKDATED: Final = timedelta(minutes=5)
"""A certificate holds a little before it is made: other machines' clocks are behind."""
CERTIFICATE_BYTES_MAX: Final = 16 * 1024
GRANT_OID: Final = x509.ObjectIdentifier("2.25.212386391498127563301884305136218712519")
"""Of our own making, as anybody may (ITU-T X.667): a UUID as an integer. Its value is an Ed25519 signature."""


class CertificateError(Exception):
    """Bytes that are no certificate, request or list of ours, or a certificate that cannot be made; says why."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says. That it may say so is for `Authority.judge`."""

    cluster: str
    name: str
    role: Role
    public_key: bytes
    """32 bytes, Ed25519."""
    serial: int
    not_before: Micros
    not_after: Micros
    grant: Grant | None
    """None in one that another tool made."""
    der: bytes

    @property
    def node(self) -> NodeId:
        return node_id_of(self.public_key)

    @property
    def pem(self) -> bytes:
        return x509.load_der_x509_certificate(self.der).public_bytes(Encoding.PEM)


class Authority:
    """A cluster's CA as everybody knows it: its certificate. Judges what it is shown."""

    def __init__(self, pem: bytes) -> None:
        """Raises `CertificateError` unless `pem` is a CA certificate that its own Ed25519 key signed."""
        certificate = _load(pem)
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except _PARSE_ERRORS as error:
            raise CertificateError("not a CA's certificate") from error
        if not constraints.ca:
            raise CertificateError("not a CA's certificate")
        self._key = _key_of(certificate)
        if not _signed_by(self._key, certificate.signature, certificate.tbs_certificate_bytes):
            raise CertificateError("a CA's certificate that its own key did not sign")
        self.cluster = _one(certificate.subject, NameOID.ORGANIZATION_NAME)
        self.not_before = _micros(certificate.not_valid_before_utc)
        self.not_after = _micros(certificate.not_valid_after_utc)
        self.pem = certificate.public_bytes(Encoding.PEM)
        self.public_key = _raw(self._key)
        self._subject = certificate.subject

    def judge(self, der: bytes, role: Role | None, now: Micros) -> Certificate:
        """The certificate in `der`, if it is this CA's, for that role (None: any), and in force.

        That its key was not taken back since is for `Grants` to say. Raises `UntrustedError` with the reason; hostile
        bytes are one.
        """
        try:
            parsed = _load(der)
            certificate = read_certificate(der)
        except CertificateError as error:
            raise UntrustedError("bad certificate", str(error)) from None
        if parsed.issuer != self._subject or not _signed_by(self._key, parsed.signature, parsed.tbs_certificate_bytes):
            raise UntrustedError("certificate of another CA", f"{certificate.name!r}, serial {certificate.serial:x}")
        who = f"{certificate.role} {certificate.name!r}, serial {certificate.serial:x}"
        if certificate.cluster != self.cluster:
            raise UntrustedError("certificate of another cluster", f"{who}: {certificate.cluster!r}")
        if now < certificate.not_before:
            raise UntrustedError("certificate not yet valid", f"{who}: from {date_text(certificate.not_before)} on")
        if now > certificate.not_after:
            raise UntrustedError("certificate expired", f"{who}: on {date_text(certificate.not_after)}")
        if role is not None and certificate.role is not role:
            raise UntrustedError("certificate of another role", f"{who}: expected {role}")
        return certificate


def read_certificate(data: bytes) -> Certificate:
    """What a certificate (PEM or DER) says, unjudged. Raises `CertificateError`."""
    certificate = _load(data)
    said = _one(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME)
    if said not in list(Role):
        raise CertificateError(f"names the role {said[:NAME_CHARS_MAX]!r}: expected {', '.join(Role)}")
    role = Role(said)
    name, not_after = _one(certificate.subject, NameOID.COMMON_NAME), _micros(certificate.not_valid_after_utc)
    return Certificate(
        cluster=_one(certificate.subject, NameOID.ORGANIZATION_NAME),
        name=name,
        role=role,
        public_key=_raw(_key_of(certificate)),
        serial=certificate.serial_number,
        not_before=_micros(certificate.not_valid_before_utc),
        not_after=not_after,
        grant=_grant_in(certificate, name, not_after // SECOND),
        der=certificate.public_bytes(Encoding.DER),
    )


def make_authority(private_key: bytes, cluster: str, now: Micros, days: int = CA_DAYS) -> Authority:
    """A new CA's certificate out of its 32-byte key."""
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    subject = _subject(cluster, "ca", f"{cluster} CA")
    start = _moment(now)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, start - BACKDATED, start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(builder.sign(key, None).public_bytes(Encoding.PEM))


def issue(
    authority: Authority,
    private_key: bytes,
    *,
    public_key: bytes,
    role: Role,
    name: str,
    serial: int,
    now: Micros,
    days: int = ISSUED_DAYS,
) -> Certificate:
    """Certify a key. `serial` is at most 159 bits, drawn by the caller. Raises `CertificateError`; nothing is kept.

    It never outlives the CA: a certificate whose issuer has expired would be of no use.
    """
    key = _authority_key(authority, private_key)
    if not 1 <= days <= ISSUED_DAYS_MAX:
        raise CertificateError(f"{days} days: expected 1 to {ISSUED_DAYS_MAX}")
    if not name or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise CertificateError(f"{name!r} is no name: expected 1 to {NAME_CHARS_MAX} printable characters")
    if now > authority.not_after:
        raise CertificateError(f"the CA itself expired on {date_text(authority.not_after)}: make a new one")
    start = _moment(now)
    end = min(start + timedelta(days=days), _moment(authority.not_after))
    subject_key = Ed25519PublicKey.from_public_bytes(public_key)
    signer = Ed25519Signer(private_key, authority.cluster)
    grant = sign_grant(signer, public_key, role, name, _micros(end) // SECOND)
    builder = (
        x509.CertificateBuilder(
            _parsed(authority).subject, _subject(authority.cluster, role, name), subject_key, serial,
            start - BACKDATED, end,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.UnrecognizedExtension(GRANT_OID, grant.signature), critical=False)
    )  # fmt: skip
    return read_certificate(builder.sign(key, None).public_bytes(Encoding.DER))


def make_request(private_key: bytes, name: str) -> bytes:
    """What a node sends to the CA's keeper: its public key and its name, signed (PEM, RFC 2986)."""
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return x509.CertificateSigningRequestBuilder(subject).sign(key, None).public_bytes(Encoding.PEM)


def read_request(pem: bytes) -> tuple[str, bytes]:
    """(name, public key) of a request whose sender holds that key. Raises `CertificateError`."""
    if len(pem) > CERTIFICATE_BYTES_MAX:
        raise CertificateError(f"larger than {CERTIFICATE_BYTES_MAX} bytes")
    try:
        request = x509.load_pem_x509_csr(pem)
        holds = request.is_signature_valid
    except _PARSE_ERRORS as error:
        raise CertificateError("no certificate request") from error
    if not holds:
        raise CertificateError("a request that its own key did not sign")
    return _one(request.subject, NameOID.COMMON_NAME), _raw(_key_of(request))


def private_pem(private_key: bytes) -> bytes:
    """A 32-byte key as TLS libraries read it (PKCS #8)."""
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def date_text(at: Micros) -> str:
    return _moment(at).strftime("%Y-%m-%d %H:%M UTC")


# --- the library's types, kept in here

_PARSE_ERRORS: Final = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    UnsupportedAlgorithm,
)
"""What the library raises for bytes that are not what they should be, some of it only when a part is asked for."""


def _load(data: bytes) -> x509.Certificate:
    if len(data) > CERTIFICATE_BYTES_MAX:
        raise CertificateError(f"larger than {CERTIFICATE_BYTES_MAX} bytes")
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            certificate = x509.load_pem_x509_certificate(data)
        else:
            certificate = x509.load_der_x509_certificate(data)
        with catch_warnings():  # of a country of four letters the library warns whoever runs the node
            simplefilter("ignore")
            certificate.subject, certificate.issuer, certificate.extensions  # noqa: B018  (parsed when asked for)
        algorithm = certificate.signature_algorithm_oid  # stands outside of what is signed as well as in it
    except _PARSE_ERRORS as error:
        raise CertificateError("no certificate") from error
    if algorithm != SignatureAlgorithmOID.ED25519:
        raise CertificateError("not signed with Ed25519")
    return certificate


def _grant_in(certificate: x509.Certificate, name: str, until_s: int) -> Grant | None:
    for extension in certificate.extensions:
        if extension.oid == GRANT_OID and isinstance(extension.value, x509.UnrecognizedExtension):
            return Grant(name, until_s, extension.value.value)
    return None


def _key_of(holder: x509.Certificate | x509.CertificateSigningRequest) -> Ed25519PublicKey:
    try:
        key = holder.public_key()
    except _PARSE_ERRORS as error:
        raise CertificateError("its key is not Ed25519") from error
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateError("its key is not Ed25519")
    return key


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _signed_by(key: Ed25519PublicKey, signature: bytes, statement: bytes) -> bool:
    try:
        key.verify(signature, statement)
    except InvalidSignature:
        return False
    return True


def _one(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    values = name.get_attributes_for_oid(oid)
    if len(values) != 1 or not isinstance(values[0].value, str):
        raise CertificateError("its subject is not one of ours")
    return values[0].value


def _subject(cluster: str, unit: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key(authority: Authority, private_key: bytes) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    if _raw(key.public_key()) != authority.public_key:
        raise CertificateError("this key is not the CA's: its certificate has another")
    return key


def _parsed(authority: Authority) -> x509.Certificate:
    return _load(authority.pem)


def _moment(at: Micros) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at // SECOND)


def _micros(moment: datetime) -> Micros:
    return Micros(int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * SECOND)
