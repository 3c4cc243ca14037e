"""Callers: whom a MeshTrafficPermission denies and allows, by SPIFFE id, in whichever of its forms. Pure."""

from __future__ import annotations

from shared.model.policy import MeshTrafficPermission, SpiffeMatch
from shared.naming.spiffe import workload_id


def callers(policy: MeshTrafficPermission) -> tuple[frozenset[SpiffeMatch], frozenset[SpiffeMatch]]:
    """Who is denied and who is allowed.

    Of `from` a later item takes the place of earlier ones for the clients that it means. Who is denied with the whole
    mesh is denied as those are whom nobody allows: another policy may allow them.
    """
    confs = [rule.default for rule in policy.spec.rules]
    deny = {entry.spiffe_id for conf in confs for entry in conf.deny or ()}
    allow = {entry.spiffe_id for conf in confs for entry in conf.allow or ()}
    for item in policy.spec.from_:
        allowed = item.default.action == "Allow"
        if service := item.service:
            one = SpiffeMatch(type="Exact", value=workload_id(policy.mesh, service))
            (allow if allowed else deny).add(one)
            (deny if allowed else allow).discard(one)
        else:
            deny = set()
            allow = {SpiffeMatch(type="Prefix", value=workload_id(policy.mesh, ""))} if allowed else set()
    return frozenset(deny), frozenset(allow)
