"""SPIFFE ids of workloads, one trust domain per mesh."""

from __future__ import annotations

EGRESS_SERVICE = "zone-egress"
"""Service name of every zone egress, as in Kuma (2-xds.md)."""


def trust_domain(mesh: str) -> str:
    """`spiffe://<mesh>`: what every id of the mesh begins with."""
    return f"spiffe://{mesh}"


def workload_id(mesh: str, service: str) -> str:
    """Id of a workload: `spiffe://<mesh>/<kuma.io/service>`, as in Kuma."""
    return f"{trust_domain(mesh)}/{service}"


def egress_id(mesh: str) -> str:
    """Id that a zone egress shows to, and is asked for by, the sidecars of `mesh`."""
    return f"{trust_domain(mesh)}/{EGRESS_SERVICE}"
