"""Certificates for TLS tests, good and bad, made anew for each run."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Certificate", "Certificates", "make_certificates"]

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, as PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """What a TLS test presents; all are signed by :attr:`ca` but ``self_signed``."""

    ca: Certificate
    #: For ``localhost`` and ``127.0.0.1``.
    server: Certificate
    #: Like ``server``, but its time is over.
    expired: Certificate
    #: For ``elsewhere.example`` only.
    wrong_host: Certificate
    #: For ``localhost``, signed by nobody else.
    self_signed: Certificate
    #: For TLS clients; its common name is ``carrot-client``.
    client: Certificate


@dataclass(frozen=True)
class _Signer:
    name: x509.Name
    key: ec.EllipticCurvePrivateKey


def make_certificates(folder: Path) -> Certificates:
    """Write all certificates into a folder. Takes some 20 ms."""
    local = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    elsewhere = [x509.DNSName("elsewhere.example")]
    ca, signer = _make(folder, "ca", "carrot test CA", is_ca=True)

    def signed(name: str, hosts: list[x509.GeneralName], days: int = 2) -> Certificate:
        return _make(folder, name, "localhost", signer, hosts, days=days)[0]

    return Certificates(
        ca=ca,
        server=signed("server", [*local]),
        expired=signed("expired", [*local], days=-1),
        wrong_host=signed("wrong_host", [*elsewhere]),
        self_signed=_make(folder, "self_signed", "localhost", hosts=[*local])[0],
        client=_make(folder, "client", "carrot-client", signer, client=True)[0],
    )


def _make(
    folder: Path,
    file_name: str,
    common_name: str,
    signer: _Signer | None = None,
    hosts: list[x509.GeneralName] | None = None,
    *,
    days: int = 2,
    is_ca: bool = False,
    client: bool = False,
) -> tuple[Certificate, _Signer]:
    """Make one certificate. *days* negative: it ended that long ago."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    own = _Signer(name, key)
    issuer = signer or own
    now = datetime.datetime.now(datetime.timezone.utc)
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * _DAY)
        .not_valid_after(now + days * _DAY)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        # Python 3.13 verifies strictly (RFC 5280): both identifiers must be there.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), False
        )
    )
    if is_ca:
        builder = builder.add_extension(_CA_USAGE, critical=True)
    else:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    certificate = Certificate(folder / f"{file_name}.pem", folder / f"{file_name}.key")
    certificate.cert.write_bytes(
        builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    certificate.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, own


_CA_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)
