"""Certificate authorities of a mesh: a root that stays on global and intermediates, one per zone (decision 34).

EC P-256 throughout. The trust domain of a mesh is `spiffe://<mesh>`; root and intermediate carry it as URI
SAN, as the SPIFFE X.509-SVID standard asks of signing certificates, and name constraints keep what they sign
inside it: https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md

A root allows one intermediate below it (path length 1), an intermediate none.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shared.keys import files

ROOT_DAYS = 3650
INTERMEDIATE_DAYS = 30
RENEW_AT = 2 / 3
"""Share of its life after which a certificate authority is renewed."""
BACKDATE = timedelta(seconds=60)
"""How far before `now` validity begins: hosts' clocks differ."""
ORGANIZATION = "Zonal"

SigningKey = ec.EllipticCurvePrivateKey


def trust_domain(mesh: str) -> str:
    """The trust domain of a mesh as URI."""
    return f"spiffe://{mesh}"


def load_key(key_pem: str) -> SigningKey:
    """A P-256 private key from PEM. Raises ValueError when it is something else."""
    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve private key")
    return key


def certificate_pem(certificate: x509.Certificate) -> str:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, lowercase hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def key_usage(*, signs: bool) -> x509.KeyUsage:
    """Key usage of a signing certificate, or of one that only shakes hands."""
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The AKI that points at `issuer`'s own SKI."""
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    """What every certificate here begins with, SKI included; the serial is random."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def authority_name(common_name: str, unit: str) -> x509.Name:
    """Subject of a signing certificate."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
        ]
    )


def _authority(draft: x509.CertificateBuilder, mesh: str, path_length: int) -> x509.CertificateBuilder:
    return (
        draft.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage(signs=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(trust_domain(mesh))]), critical=False
        )
        .add_extension(
            # RFC 5280 §4.2.1.10: a URI constraint holds the host part, here exactly the trust domain.
            x509.NameConstraints(permitted_subtrees=[x509.UniformResourceIdentifier(mesh)], excluded_subtrees=None),
            critical=True,
        )
    )


def create_root(mesh: str, backend: str, now: datetime, *, days: int = ROOT_DAYS) -> tuple[str, str]:
    """A new root of `mesh`: (certificate PEM, key PEM). `now` is aware."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = authority_name(mesh, f"root {backend}")
    draft = builder(name, name, key.public_key(), now - BACKDATE, now + timedelta(days=days))
    certificate = _authority(draft, mesh, path_length=1).sign(key, hashes.SHA256())
    return certificate_pem(certificate), files.private_pem(key)


def create_intermediate(
    root_certificate_pem: str, root_key_pem: str, *, mesh: str, zone: str, now: datetime, days: int = INTERMEDIATE_DAYS
) -> tuple[str, str]:
    """An intermediate of `mesh` for `zone`: (certificate PEM, key PEM). It never outlives its root.

    Raises ValueError when key and certificate of the root do not belong together.
    """
    root = x509.load_pem_x509_certificate(root_certificate_pem.encode())
    root_key = load_key(root_key_pem)
    if root.public_key() != root_key.public_key():
        raise ValueError(f"the key is not that of the root certificate of mesh {mesh}")
    key = ec.generate_private_key(ec.SECP256R1())
    not_after = min(now + timedelta(days=days), root.not_valid_after_utc)
    draft = builder(authority_name(mesh, f"zone {zone}"), root.subject, key.public_key(), now - BACKDATE, not_after)
    certificate = (
        _authority(draft, mesh, path_length=0)
        .add_extension(authority_key_identifier(root), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    return certificate_pem(certificate), files.private_pem(key)


def renewal_time(certificate_pem_text: str, share: float = RENEW_AT) -> datetime:
    """When the (first) certificate has lived `share` of its life."""
    certificate = x509.load_pem_x509_certificate(certificate_pem_text.encode())
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * share


def needs_renewal(certificate_pem_text: str, now: datetime) -> bool:
    """Whether the (first) certificate has lived two thirds of its life."""
    return now >= renewal_time(certificate_pem_text)
