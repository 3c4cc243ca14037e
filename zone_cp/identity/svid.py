"""Svid: an X.509-SVID, the certificate by which a workload proves its SPIFFE id."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Svid(msgspec.Struct, frozen=True):
    """chain_pem is leaf first, then the intermediate. serial and fingerprint (SHA-256 of the DER) are hex.

    `key_pem` is secret: `repr` leaves it out, and nothing may log or store it.
    """

    spiffe_id: str
    chain_pem: str
    key_pem: str
    serial: str
    fingerprint: str
    not_before: datetime
    not_after: datetime

    def __repr__(self) -> str:
        return f"Svid({self.spiffe_id}, serial={self.serial}, {self.not_before:%FT%TZ}..{self.not_after:%FT%TZ})"
