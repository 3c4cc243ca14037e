"""Any changes, for properties that hold of every log: also of those that no control plane would write."""

from __future__ import annotations

from hypothesis import strategies as st

from shared.events.event import (
    Change,
    EventSkipped,
    HostnameClaimed,
    HostnameQuarantined,
    HostnameReleased,
    LogSigned,
    ProxyConnected,
    ProxyDisconnected,
    ResourceDeleted,
    VipLeased,
    VipQuarantined,
    VipReleased,
)
from shared.model.resource import ResourceKey
from tests.builders import LogBuilder, applied, at, deleted, generator, mes, mesh, resource, service_key
from tests.builders import settings as zone_settings


def permission(name: str, allow: list[str], deny: list[str]) -> Change:
    """A MeshTrafficPermission of the zone on one of its services."""
    matches = {
        verb: [{"spiffeID": {"type": "Exact", "value": f"spiffe://default/{one}"}} for one in ids]
        for verb, ids in (("allow", allow), ("deny", deny))
    }
    spec = {"targetRef": {"kind": "MeshExternalService", "name": "a"}, "rules": [{"default": matches}]}
    return applied(resource(type="MeshTrafficPermission", name=name, mesh="default", spec=spec), "east")


names = st.sampled_from(["a", "b", "c"])
keys = st.builds(service_key, names, zone=st.sampled_from(["", "east"]))
ips = st.sampled_from(["242.0.0.1", "242.0.0.2", "242.128.0.1"])
moments = st.integers(0, 100).map(at)
hostnames = st.sampled_from(["x.ext", "y.ext"])
generators = st.just(ResourceKey("HostnameGenerator", "", "all"))
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(lambda name: applied(mes(name), "east"), names),
    st.builds(lambda name: deleted(mes(name), "east"), names),
    st.builds(lambda forbid: applied(mesh(forbid=forbid), "east"), st.booleans()),
    st.builds(permission, names, st.lists(names, max_size=2), st.lists(names, max_size=2)),
    st.builds(lambda name: ResourceDeleted(ResourceKey("MeshTrafficPermission", "default", name, "east")), names),
    st.just(applied(generator(), "east")),
    st.just(zone_settings()),
    st.builds(VipLeased, key=keys, protocol_class=st.sampled_from(["http", "tcp"]), ip=ips),
    st.builds(VipQuarantined, key=keys, ip=ips, until=moments),
    st.builds(VipReleased, ip=ips),
    st.builds(HostnameClaimed, mesh=st.just("default"), hostname=hostnames, key=keys, generator=generators),
    st.builds(HostnameQuarantined, mesh=st.just("default"), hostname=hostnames, key=keys, until=moments),
    st.builds(HostnameReleased, mesh=st.just("default"), hostname=hostnames),
    st.builds(ProxyConnected, proxy=names, key=keys, connection=names),
    st.builds(ProxyDisconnected, proxy=names, connection=names),
    st.just(LogSigned(key="a key")),
    st.builds(EventSkipped, g=st.integers(1, 9), reason=st.just("poison")),
)
logs = st.lists(changes, max_size=30)


def east_log(history: list[Change]) -> LogBuilder:
    """A zone's log of such changes, a second between them."""
    log = LogBuilder("east")
    for second, change in enumerate(history):
        log.append(change, seconds=second)
    return log
