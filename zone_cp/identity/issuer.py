"""Issuer: signs workload certificates of one mesh with this zone's intermediate."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from shared.keys import ca, files
from zone_cp.identity.svid import Svid


class NotIssuable(Exception):
    """No certificate can be issued; `reason` is a sentence fit for a condition."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Issuer:
    """Holds an intermediate (chain in PEM, own certificate first), its key and the root it leads to.

    Raises ValueError when the three do not belong together.
    """

    def __init__(self, chain_pem: str, key_pem: str, root_pem: str) -> None:
        self.root_pem = root_pem
        self.chain_pem = chain_pem if chain_pem.endswith("\n") else chain_pem + "\n"
        self._certificate = x509.load_pem_x509_certificate(chain_pem.encode())
        self._key = ca.load_key(key_pem)
        self._authority = ca.authority_key_identifier(self._certificate)
        if self._certificate.public_key() != self._key.public_key():
            raise ValueError("the key is not that of the intermediate certificate")
        root = x509.load_pem_x509_certificate(root_pem.encode())
        chain = [*x509.load_pem_x509_certificates(chain_pem.encode()), root]
        for below, above in itertools.pairwise(chain):
            try:
                below.verify_directly_issued_by(above)
            except Exception as error:  # InvalidSignature, ValueError, TypeError: all mean the same here
                raise ValueError("the intermediate's chain does not lead to the root") from error

    @property
    def not_after(self) -> datetime:
        """End of the intermediate's life; nothing issued outlives it."""
        return self._certificate.not_valid_after_utc

    def issue(self, spiffe_id: str, seconds: float, now: datetime) -> Svid:
        """A fresh key and certificate for `spiffe_id`, valid until `now` + `seconds` at most.

        Raises NotIssuable when the intermediate has expired.
        """
        if now >= self.not_after:
            raise NotIssuable(f"the zone's intermediate certificate expired at {self.not_after:%FT%TZ}")
        key = ec.generate_private_key(ec.SECP256R1())
        # Microseconds do not exist in X.509: what the Svid says is what the certificate says.
        not_before = (now - ca.BACKDATE).replace(microsecond=0)
        not_after = min(now + timedelta(seconds=seconds), self.not_after).replace(microsecond=0)
        empty = x509.Name([])
        leaf = (
            ca.builder(empty, self._certificate.subject, key.public_key(), not_before, not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(ca.key_usage(signs=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            # RFC 5280 §4.2.1.6: critical because the subject is empty.
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=True)
            .add_extension(self._authority, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Svid(
            spiffe_id=spiffe_id,
            chain_pem=ca.certificate_pem(leaf) + self.chain_pem,
            key_pem=files.private_pem(key),
            serial=f"{leaf.serial_number:x}",
            fingerprint=ca.fingerprint(leaf),
            not_before=not_before,
            not_after=not_after,
        )
