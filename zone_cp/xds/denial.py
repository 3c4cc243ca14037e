"""How a denial is told: which kind of service is meant, and which kind of permission has decided."""

from __future__ import annotations

from shared.model.kinds import is_legacy
from shared.model.resource import ResourceKey
from zone_cp.view.policies import Permission


def kind_of(key: ResourceKey) -> str:
    """The kind of an external service, as people declare it; doors and hosts are made of ExternalServices."""
    return "ExternalService" if is_legacy(key) else "MeshExternalService"


def not_allowed(permission: Permission) -> str:
    """Of a workload that is in no list."""
    kind = permission.on or "service"
    if not permission.by:
        return f"this {kind} is gone"
    return f"no {' or '.join(permission.by)} allows this workload to use this {kind}"


def denied(permission: Permission) -> str:
    """Of a workload that is in a list of those who may not; only MeshTrafficPermissions have one."""
    return f"a MeshTrafficPermission denies this workload the use of this {permission.on or 'service'}"


def verdict(permission: Permission | None, *, has_identity: bool) -> str:
    """Of a service that is closed to a sidecar which dials it itself. has_identity: the mesh has mTLS."""
    if permission is None:
        return "the mesh forbids MeshExternalServices (defaultForbidMeshExternalServiceAccess)"
    if not has_identity:
        by = " or ".join(permission.by) or "permission"
        return f"the mesh has no mTLS, so that no {by} can tell this workload from others"
    return not_allowed(permission)


def as_name(text: str) -> str:
    """The text where Envoy writes no spaces: the names of rules, which end up in a 403's body."""
    return text.replace(" ", "_")
