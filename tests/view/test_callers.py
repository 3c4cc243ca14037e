"""Whom a MeshTrafficPermission means."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.model.policy import FromConf, FromItem, MeshTrafficPermission, PermissionSpec, is_meant
from shared.model.target import TargetRef
from zone_cp.view.callers import callers


@given(
    st.lists(st.tuples(st.sampled_from(["", "web", "api"]), st.booleans()), max_size=6), st.sampled_from(["web", "x"])
)
def test_the_last_item_that_means_a_client_decides(items: list[tuple[str, bool]], client: str) -> None:
    """Of the older form; whom none means is in neither list, and so denied. Another mesh's are never allowed."""
    ref = {service: TargetRef(kind="MeshService" if service else "Mesh", name=service or None) for service, _ in items}
    conf = {True: FromConf(action="Allow"), False: FromConf(action="Deny")}
    from_ = tuple(FromItem(target_ref=ref[service], default=conf[allowed]) for service, allowed in items)
    spec = PermissionSpec(target_ref=TargetRef(kind="MeshService", name="a"), from_=from_)
    deny, allow = callers(MeshTrafficPermission(name="p", mesh="m", spec=spec))

    def may(spiffe_id: str) -> bool:
        return not any(is_meant(spiffe_id, one) for one in deny) and any(is_meant(spiffe_id, one) for one in allow)

    said = [allowed for service, allowed in items if service in ("", client)]
    assert may(f"spiffe://m/{client}") == bool(said and said[-1])
    assert not may(f"spiffe://m2/{client}")
