"""What a targetRef must satisfy: Kuma's grammar and sentences (`spec/4-gateway-and-policies.md` B0)."""

from __future__ import annotations

from shared.model.inbound import SERVICE_TAG
from shared.model.part import Labels
from shared.model.target import TargetRef
from shared.model.value_rules import REQUIRED, Found

TOP_KINDS = frozenset({"Mesh", "MeshSubset", "MeshService", "MeshServiceSubset", "Dataplane", "MeshGateway"})
WHOLE_MESH = frozenset({"Mesh"})
TO_KINDS = WHOLE_MESH | {"MeshExternalService"}
TO_OR_ROUTE_KINDS = TO_KINDS | {"MeshHTTPRoute"}
"""Destinations of policies that a route of HTTP can hold: Kuma's MeshTimeout and MeshRetry."""
SERVICE_KINDS = frozenset({"MeshExternalService"})
GUARDED_KINDS = SERVICE_KINDS | {"MeshService"}
"""MeshService means the legacy ExternalServices of a `kuma.io/service`."""
FROM_KINDS = WHOLE_MESH | {"MeshSubset", "MeshService"}
GATEWAY_BACKENDS = SERVICE_KINDS | {"MeshService", "MeshServiceSubset"}
"""Where a gateway's routes may lead: MeshService is the value of a `kuma.io/service`, in the mesh or outside it."""
WHOLE_PROXY_KINDS = frozenset({"Mesh", "MeshSubset", "Dataplane"})


def top_violations(ref: TargetRef | None, kinds: frozenset[str] = TOP_KINDS) -> Found:
    """Which proxies."""
    if ref is None:
        return
    path = "spec.targetRef"
    if ref.kind not in kinds:
        yield f"{path}.kind", unsupported(ref.kind)
        return
    yield from _of_no_place(ref, path)
    if ref.kind == "Mesh" and ref.name:
        yield f"{path}.name", "using name with kind Mesh is not yet supported"
    if ref.kind in ("MeshService", "MeshServiceSubset", "MeshGateway") and not ref.name:
        yield f"{path}.name", f"must be set when kind is {ref.kind}"
    if ref.kind == "MeshSubset":
        yield from _absent(ref, path, ("name", ref.name))
    if ref.kind not in ("MeshSubset", "MeshServiceSubset", "MeshGateway"):
        yield from _absent(ref, path, ("tags", ref.tags))
    if ref.kind != "Dataplane":
        yield from _absent(ref, path, ("labels", ref.labels))
    elif ref.name and ref.labels:
        yield f"{path}.labels", "either labels or name and namespace must be specified"
    if ref.kind != "Mesh":
        yield from _absent(ref, path, ("proxyTypes", ref.proxy_types))


def to_violations(ref: TargetRef, path: str, kinds: frozenset[str] = TO_KINDS) -> Found:
    """Which destinations."""
    if ref.kind not in kinds:
        yield f"{path}.kind", unsupported(ref.kind)
        return
    yield from _of_no_place(ref, path)
    yield from _absent(ref, path, ("tags", ref.tags), ("proxyTypes", ref.proxy_types))
    if ref.kind == "Mesh":
        if ref.name:
            yield f"{path}.name", "using name with kind Mesh is not yet supported"
        yield from _absent(ref, path, ("labels", ref.labels))
    elif bool(ref.name) == bool(ref.labels):
        yield path, "either labels or name must be specified"


def from_violations(ref: TargetRef, path: str) -> Found:
    """Which clients: their certificates prove a `kuma.io/service` and nothing else."""
    if ref.kind not in FROM_KINDS:
        yield f"{path}.kind", unsupported(ref.kind)
        return
    yield from _of_no_place(ref, path)
    yield from _absent(ref, path, ("labels", ref.labels), ("proxyTypes", ref.proxy_types))
    if ref.kind == "Mesh" and ref.name:
        yield f"{path}.name", "using name with kind Mesh is not yet supported"
    if ref.kind == "MeshSubset":
        yield from _absent(ref, path, ("name", ref.name))
        yield from only_service_tag(ref.tags, f"{path}.tags")
    else:
        yield from _absent(ref, path, ("tags", ref.tags))
    if ref.kind == "MeshService" and not ref.name:
        yield f"{path}.name", "must be set when kind is MeshService"


def only_service_tag(tags: Labels, path: str) -> Found:
    """Tags of a client that can be told from its identity, each with a value."""
    for tag, value in sorted(tags.items()):
        if not value:
            yield f'{path}["{tag}"]', "tag value must be non-empty"
        if tag != SERVICE_TAG:
            # A workload's certificate proves its service and nothing else.
            yield f'{path}["{tag}"]', f"only {SERVICE_TAG} can be told from a client's identity"


def unsupported(kind: str) -> str:
    """Why a kind is refused."""
    return f"value '{kind}' is not supported" if kind else REQUIRED


def _of_no_place(ref: TargetRef, path: str) -> Found:
    """What would say where it is, which nothing here needs."""
    yield from _absent(ref, path, ("namespace", ref.namespace), ("mesh", ref.mesh), ("sectionName", ref.section_name))


def _absent(ref: TargetRef, path: str, *given: tuple[str, object]) -> Found:
    for name, value in given:
        if value:
            yield f"{path}.{name}", f"must not be set with kind {ref.kind}"
