"""What global owes the mesh in a state: roots, intermediates and wraps of data keys. Pure; the shell makes the keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import msgspec

from shared.events.event import GLOBAL, Change, ResourceApplied, ResourceDeleted
from shared.events.sealing import key_ids
from shared.events.state import GlobalState, LogState, Stored
from shared.model.resource import Mesh


class NeedRoot(msgspec.Struct, frozen=True):
    """A mesh with builtin mTLS has no root of its enabled backend."""

    mesh: str
    backend: str


class NeedIntermediate(msgspec.Struct, frozen=True):
    """A zone has no intermediate of a mesh, or one that is due, or one of an earlier root."""

    mesh: str
    backend: str
    zone: str


class NeedWrap(msgspec.Struct, frozen=True):
    """A zone cannot read the data key `kid` of a secret that it may serve."""

    kid: str
    zone: str


Need: TypeAlias = NeedRoot | NeedIntermediate | NeedWrap


def pending(
    state: GlobalState, zones: Sequence[str], *, due: Callable[[str], bool] = lambda _: False
) -> tuple[Need, ...]:
    """What is owed now. An intermediate is asked for once its root is there, so ask again after each step.

    zones: those that may serve. due: whether a certificate (PEM, own first) is to be renewed now.
    """
    return (*_authorities(state.hub, zones, due), *_wraps(state.hub, zones))


def may_owe(change: Change) -> bool:
    """Whether something can be pending because of a change; False spares looking through all resources.

    What falls due with time alone is found by who asks with `due`.
    """
    match change:
        case ResourceApplied(resource=resource):
            return isinstance(resource, Mesh) or bool(key_ids(resource))
        case ResourceDeleted():
            return False
        case _:
            return True


def _authorities(hub: LogState, zones: Sequence[str], due: Callable[[str], bool]) -> Iterator[Need]:
    meshes = hub.kinds.get("Mesh")
    for stored in sorted(meshes.values() if meshes else (), key=_name):
        mesh = stored.resource
        if not isinstance(mesh, Mesh) or mesh.mtls is None or not mesh.mtls.enabled_backend:
            continue
        backend = mesh.mtls.enabled_backend
        root = hub.roots.get(mesh.name)
        # A mesh that was deleted and made anew does not inherit the trust of the old one.
        if root is None or root.backend != backend or root.event.n < stored.created.n:
            yield NeedRoot(mesh.name, backend)
            continue
        for zone in zones:
            issued = hub.intermediates.get((mesh.name, zone))
            stale = issued is None or issued.backend != backend or issued.event.n < root.event.n
            if stale or (issued is not None and due(issued.certificate)):
                yield NeedIntermediate(mesh.name, backend, zone)


def _wraps(hub: LogState, zones: Sequence[str]) -> Iterator[Need]:
    for kind in ("Secret", "MeshExternalService", "ExternalService"):
        members = hub.kinds.get(kind)
        for stored in sorted(members.values() if members else (), key=_name):
            for kid in key_ids(stored.resource):
                wraps = hub.data_keys.get(kid)
                # Without global's own wrap the key was shredded: nobody can wrap it again.
                if wraps is None or GLOBAL not in wraps:
                    continue
                for zone in zones:
                    if zone not in wraps:
                        yield NeedWrap(kid, zone)


def _name(stored: Stored) -> tuple[str, str]:
    return stored.key.mesh, stored.key.name
