"""Tombstone: the cluster of a name that stands for no service, so that whoever uses it is answered at once, and why.

Envoy keeps waiting for a cluster that it has asked for by name and that is not there; a cluster without endpoints
answers 503 in its place, and is replaced when the service appears.
"""

from __future__ import annotations

from zone_cp.xds.clusters import closed_body
from zone_cp.xds.snapshot import CLUSTER, Encoded
from zone_cp.xds.wire import encode


class Tombstone(Encoded, frozen=True):
    """An Encoded that stands for nothing. refused: it stands in for one that the client has refused."""

    refused: bool = False


def tombstone(name: str, *, refused: bool = False) -> Tombstone:
    """The tombstone of a cluster's name. refused: there is a service, but the proxy has refused its cluster."""
    said = name.rpartition("/")[2]
    why = f"no MeshExternalService is served as {said}"
    if refused:
        why = f"this proxy has refused the configuration of {said}: see the condition of its MeshExternalService"
    made = encode(CLUSTER, name, closed_body(name, said, why))
    return Tombstone(made.name, made.type_url, made.version, made.body, made.field, refused=refused)
