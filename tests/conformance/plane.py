"""ConformancePlane: the production xDS server, offering what a harness says instead of what a zone compiles."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from immutables import Map

from shared.events.state import Position
from tests.conformance.contract import SERVICE, messages
from zone_cp.ads.rpc.calls import Aborted, Call, Method
from zone_cp.ads.rpc.exchange import Status
from zone_cp.ads.server import Admission, Admitted, AdsServer, NodeInfo, Refused
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, RUNTIME, SECRET, Encoded, Snapshot
from zone_cp.xds.wire import any_message, encode, piece

_VERSIONED: dict[str, Callable[[str], bytes]] = {
    CLUSTER: lambda version: piece(28, version),  # alt_stat_name
    LISTENER: lambda version: piece(28, version),  # stat_prefix
    ROUTE: lambda version: piece(5, version),  # response_headers_to_remove
    ENDPOINT: lambda version: piece(5, piece(1, version)),  # named_endpoints
    SECRET: lambda version: piece(5, piece(1, piece(3, version))),  # generic_secret, an inline string
    RUNTIME: lambda version: piece(2, piece(1, piece(1, "version") + piece(2, piece(3, version)))),  # layer, a Struct
}
"""A field that every type has room for, so that a new version has new content."""


class ConformancePlane:
    """Any node is admitted, without a token. address is the interface to listen on."""

    def __init__(self, address: str, port: int) -> None:
        self._state: dict[str, Snapshot] = {}
        self._changes = 0
        self.server = AdsServer(
            address,
            port,
            None,
            admit=self._admit,
            on_connected=lambda _proxy, _connection, _node: None,
            on_disconnected=lambda _proxy, _connection, _reason: None,
            on_ack=lambda _proxy, _fact: None,
            on_nack=lambda _proxy, _fact: None,
            on_observation=lambda _proxy, _seen: None,
            methods=self._methods(),
        )
        self.server.hub.linger_seconds = 0.0  # a harness has no connections that drain, and waits for removals

    async def _admit(self, node: NodeInfo, token: str | None) -> Admission:
        if not node.id:
            return Refused(Status.INVALID_ARGUMENT, "the first request of a stream must name its node")
        return Admitted(node.id)

    def _methods(self) -> dict[str, Method]:
        requests = {"SetState": "State", "ClearState": "Node"}
        calls: dict[str, Callable[[Any], Snapshot]] = {
            "SetState": self._set_state,
            "ClearState": lambda _: Snapshot(Position(0, 0), Map()),
            "SetResource": self._set_resource,
            "RemoveResource": self._remove_resource,
        }
        return {
            f"/{SERVICE}/{name}": self._method(messages()[requests.get(name, "ResourceChange")], change)
            for name, change in calls.items()
        }

    def _method(self, message: Any, change: Callable[[Any], Snapshot]) -> Method:
        async def method(call: Call) -> None:
            request = message.FromString(await call.read() or b"")
            if not request.node:
                raise Aborted(Status.INVALID_ARGUMENT, "node is missing")
            try:
                changed = change(request)
            except ValueError as error:
                raise Aborted(Status.INVALID_ARGUMENT, str(error)) from None
            self._changes += 1
            snapshot = Snapshot(Position(self._changes, 0), changed.resources, changed.versions)
            self._state[request.node] = snapshot
            self.server.offer(request.node, snapshot)
            await call.write(messages()["Done"](position=str(snapshot.position)).SerializeToString())

        return method

    def _of(self, node: str) -> Snapshot:
        return self._state.get(node) or Snapshot(Position(0, 0), Map())

    def _set_state(self, state: Any) -> Snapshot:
        types = {
            one.type_url: Map({r.name: _encoded(one.type_url, r.name, one.version, r) for r in one.resources})
            for one in state.types
        }
        return Snapshot(Position(0, 0), Map(types), Map({t.type_url: t.version for t in state.types if t.version}))

    def _set_resource(self, change: Any) -> Snapshot:
        encoded = _encoded(change.type_url, change.name, change.version, change)
        return self._changed(change, lambda names: names.set(change.name, encoded))

    def _remove_resource(self, change: Any) -> Snapshot:
        def without(names: Map[str, Encoded]) -> Map[str, Encoded]:
            if change.name not in names:
                raise ValueError(f"there is no {change.type_url} {change.name}")
            return names.delete(change.name)

        return self._changed(change, without)

    def _changed(self, change: Any, names: Callable[[Map[str, Encoded]], Map[str, Encoded]]) -> Snapshot:
        before, url = self._of(change.node), change.type_url
        resources = before.resources.set(url, names(before.resources.get(url, Map())))
        versions = before.versions.set(url, change.version) if change.version else before.versions
        return Snapshot(Position(0, 0), resources, versions)


def _encoded(type_url: str, name: str, version: str, given: Any) -> Encoded:
    if given.HasField("resource"):
        if given.resource.type_url != type_url:
            raise ValueError(f"{name} is a {given.resource.type_url}, not a {type_url}")
        return _as_of(version, encode(type_url, name, given.resource.value))
    if type_url not in _VERSIONED:
        raise ValueError(f"a {type_url} has to be given whole")
    return encode(type_url, name, piece(1, name) + _VERSIONED[type_url](version))


def _as_of(version: str, one: Encoded) -> Encoded:
    """A resource that was given whole with this version: given again with another, it counts as updated."""
    if not version:
        return one
    own = blake2b(f"{one.version} {version}".encode(), digest_size=8).hexdigest()
    entry = piece(1, own) + piece(2, any_message(one.type_url, one.body)) + piece(3, one.name)
    return Encoded(one.name, one.type_url, own, one.body, piece(2, entry))
