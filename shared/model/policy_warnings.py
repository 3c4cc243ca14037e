"""What an author of a policy should know although nothing is wrong with it: fields without effect, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from shared.model.endpoint_policy import MeshHealthCheck, MeshLoadBalancingStrategy
from shared.model.labels import is_direct
from shared.model.log_policy import MeshAccessLog
from shared.model.passthrough_policy import MeshPassthrough, PassthroughConf
from shared.model.policy import (
    EFFECT_LABEL,
    SHADOW,
    MeshCircuitBreaker,
    MeshRetry,
    MeshTimeout,
    MeshTrafficPermission,
    Policy,
    TimeoutConf,
)
from shared.model.resource import Mesh
from shared.model.route_policy import MeshHTTPRoute, MeshTCPRoute
from shared.model.target import TargetRef


def policy_warnings(policy: Policy, mesh: Mesh | None) -> Iterator[str]:
    """Sentences; `mesh` is the policy's, None while it does not exist."""
    about = f"{type(policy).__name__} {policy.name}"
    if policy.labels.get(EFFECT_LABEL) == SHADOW:
        yield f"{about} is in shadow ({EFFECT_LABEL}): it has no effect"
    if isinstance(policy, MeshPassthrough):
        yield from (f"{about}: {sentence}" for sentence in _passthrough(policy.spec.default))
    if mesh is None:
        return
    has_mtls = mesh.mtls is not None and bool(mesh.mtls.enabled_backend)
    match policy:
        case MeshTrafficPermission():
            if policy.spec.target_ref.kind == "MeshService":
                service = policy.spec.target_ref.name
                yield f"{about} guards legacy ExternalServices of {service} alone, nothing that Dataplanes serve"
            if not has_mtls:
                yield f"{about}: mesh {mesh.name} has no mTLS, so nobody can show who it is: everybody is denied"
        case MeshCircuitBreaker() | MeshHealthCheck() | MeshLoadBalancingStrategy():
            if not is_direct(mesh) and not _for_all(policy.spec.target_ref):
                yield f"{about} has no effect on MeshExternalServices: {_SHARED}"
        case MeshTimeout():
            if not is_direct(mesh) and not _for_all(policy.spec.target_ref):
                fields = sorted({field for item in policy.spec.to for field in _dialling(item.default)})
                if fields:
                    yield f"{about}: {', '.join(fields)} has no effect on MeshExternalServices: {_SHARED}"
        case MeshRetry() | MeshAccessLog() | MeshHTTPRoute() | MeshTCPRoute() | MeshPassthrough():
            pass
        case _:
            assert_never(policy)


_SHARED = "it holds at the zone egress, which all clients share, and is heard there with targetRef kind Mesh only"


def _passthrough(conf: PassthroughConf) -> Iterator[str]:
    matches = conf.append_match or ()
    if matches and conf.passthrough_mode in ("All", "None"):
        yield f"appendMatch has no effect while passthroughMode {conf.passthrough_mode} holds"
    for one in matches:
        if one.type != "Domain" and ":" in one.value:
            yield f"{one.value} has no effect: the transparent redirect is of IPv4"


def _for_all(top: TargetRef | None) -> bool:
    return top is None or (top.kind == "Mesh" and (not top.proxy_types or "Sidecar" in top.proxy_types))


def _dialling(conf: TimeoutConf) -> Iterator[str]:
    if conf.connection_timeout is not None:
        yield "connectionTimeout"
    if conf.http is not None and conf.http.max_connection_duration is not None:
        yield "http.maxConnectionDuration"
