"""StreamPair: a server's stream joined with a simulated Envoy by two FIFO wires; and snapshots of toy resources.

The client obeys the protocol as Envoy does: one ACK or NACK per response, subscriptions by name, a reconnect
that reports what it holds. It refuses every resource whose body says `bad`, in one of Envoy's two ways. The same
client speaks delta (`StreamPair`) and SotW (`SotwPair`); what differs is how it words what it wants and hears.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from immutables import Map

from shared.events.state import Position
from shared.pb.discovery_pb2 import (
    Cluster,
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from tests.ads.compared import compared
from zone_cp.ads.delta import DeltaStream, Fact, Nacked
from zone_cp.ads.sotw import SotwStream
from zone_cp.ads.staging import NOTHING
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Encoded, Snapshot, following
from zone_cp.xds.wire import encode, number, piece

WILDCARD_TYPES = (CLUSTER, LISTENER)
SHORT = {"SDS": SECRET, "CDS": CLUSTER, "EDS": ENDPOINT, "LDS": LISTENER, "RDS": ROUTE}
LONG = {url: short for short, url in SHORT.items()}


def eds_cluster(name: str, content: str = "1") -> bytes:
    """The body of an EDS cluster; content makes versions differ (field 28, alt_stat_name)."""
    return piece(1, name) + number(2, 3) + piece(28, content)


def snapshot(position: int, /, **types: Mapping[str, str] | Sequence[str]) -> Snapshot:
    """Names to contents, by short type name: `snapshot(1, CDS={"a": "1"}, LDS=["l"])`. Clusters are EDS clusters."""
    resources = {}
    for short, names in types.items():
        contents = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, "1")
        url = SHORT[short]
        make: Callable[[str, str], bytes] = (
            eds_cluster if url == CLUSTER else lambda name, c: piece(1, name) + piece(28, c)
        )
        resources[url] = Map({name: encode(url, name, make(name, content)) for name, content in contents.items()})
    return Snapshot(Position(position, 0), Map(resources))


def succeeding(before: Snapshot, after: Snapshot) -> Snapshot:
    """`after`, made from `before` as production does: it knows its lineage and shares what did not change."""
    changes: dict[str, dict[str, Encoded | None]] = {}
    for url in {*before.resources, *after.resources}:
        old, new = before.resources.get(url, NOTHING), after.resources.get(url, NOTHING)
        changes[url] = {name: new.get(name) for name in {*old, *new}}
    return msgspec.structs.replace(following(before, after.position, changes), position=after.position)


def wire_version(type_short: str, name: str, content: str = "1") -> str:
    """The version that `snapshot` gives this resource."""
    one: Encoded = snapshot(0, **{type_short: {name: content}}).resources[SHORT[type_short]][name]
    return one.version


Response: TypeAlias = DeltaDiscoveryResponse | DiscoveryResponse


class StreamPair:
    """Client and server. `step` delivers one message; `run` until both wires are empty."""

    tells_absence = True
    """Whether the protocol can say of every type that something is not there."""

    def __init__(self, *, whole: bool = False) -> None:
        """whole: a bad resource makes the client refuse the whole response (a parse-level error)."""
        self.whole = whole
        self.holds: dict[str, dict[str, str]] = {}
        self.wild: set[str] = set()
        self.names: dict[str, set[str]] = {}
        self.log: list[Any] = []
        self.facts: list[Fact] = []
        self.refused: set[tuple[str, str, str]] = set()
        self.resent_refused: list[tuple[str, str, str]] = []
        self.absent: set[tuple[str, str]] = set()
        self.offered: Snapshot | None = None
        self.auto_ack = True
        self._reset()

    def _reset(self) -> None:
        self.server: Any = self._stream()
        self.drained = 0
        self.up: deque[Any] = deque()
        self.down: deque[Response] = deque()
        self.unacked: deque[Any] = deque()

    # -- what tests do ------------------------------------------------------------------------------------------

    def offer(self, offered: Snapshot) -> None:
        self.offered = offered
        self.server.offer(offered)
        self._pump()

    def ask(self, short: str, *subscribe: str, unsubscribe: Sequence[str] = (), **initial: str) -> None:
        """Send a subscription change; no names on a first request means wildcard for CDS and LDS."""
        url = SHORT[short]
        names = self.names.setdefault(url, set())
        if "*" in subscribe or (not subscribe and not unsubscribe and url in WILDCARD_TYPES):
            self.wild.add(url)
        names |= set(subscribe) - {"*"}
        names -= set(unsubscribe)
        if "*" in unsubscribe:
            self.wild.discard(url)
        for name in list(self.holds.get(url, ())):
            if url not in self.wild and name not in names:
                del self.holds[url][name]
        for name in unsubscribe:
            self.absent.discard((url, name))
        self.up.append(self._wish(url, subscribe, unsubscribe, initial))

    def send_stale(self, short: str) -> None:
        """A request that answers no response there ever was; it must change nothing."""
        if SHORT[short] in self.names:
            self.up.append(DeltaDiscoveryRequest(type_url=SHORT[short], response_nonce="0"))

    def reconnect(self) -> None:
        """A new stream to a new server: the client reports what it holds, as Envoy does."""
        self._reset()
        self.refused.clear()
        self.absent.clear()
        if self.offered is not None:
            self.server.offer(self.offered)
        for url in (*WILDCARD_TYPES[:1], ENDPOINT, SECRET, *WILDCARD_TYPES[1:], ROUTE):
            if url in self.wild or self.names.get(url):
                subscribe = sorted(self.names.get(url, ()))
                if url in self.wild and subscribe:
                    subscribe.append("*")
                self.ask(LONG[url], *subscribe, **self.holds.get(url, {}))

    def step(self, *, downwards: bool) -> bool:
        """Deliver one message on one wire; False when there is none."""
        if downwards:
            if not self.down:
                return False
            self._client(self.down.popleft())
            return True
        if not self.up:
            return False
        facts = self.server.receive(self.up.popleft())
        self.facts.extend(facts)
        for fact in facts:
            if isinstance(fact, Nacked) and len(fact.names) == 1:
                self.refused |= {(fact.type_url, *pair) for pair in fact.rejected}
        self._pump()
        return True

    def run(self, *, waits: bool = True) -> list[Any]:
        """Deliver everything; returns the responses the client got meanwhile. waits: until old listeners drained."""
        before = len(self.log)
        for _ in range(10_000):
            if self.step(downwards=False) or self.step(downwards=True):
                continue
            if not waits or not self.drain():
                return self.log[before:]
        raise AssertionError("server and client never fall silent")

    def drain(self) -> bool:
        """Let the time pass that connections of old listeners have; whether any had."""
        newest = self.server.lingering.newest
        if newest == self.drained:
            return False
        self.drained = newest
        self.server.drained(newest)
        self._pump()
        return True

    def ack(self) -> None:
        """Send the oldest withheld ACK or NACK."""
        self.up.append(self.unacked.popleft())

    # -- both ends ----------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        for raw in self.server.responses():
            response = self._parse(raw)
            sent = {(response.type_url, *pair) for pair in carried(response)}
            self.resent_refused.extend(sent & self.refused)
            self.down.append(response)

    def _client(self, response: Response) -> None:
        self.log.append(response)
        bad = {name: version for name, version, body in bodies(response) if b"bad" in body}
        if not (self.whole and bad):
            self._apply(response, bad)
        answer = self._answer(response, refused=bool(bad))
        if bad:
            message = "Proto constraint validation failed" if self.whole else ", ".join(f"{name}: bad" for name in bad)
            answer.error_detail.message = message
            answer.error_detail.code = 13
        (self.up if self.auto_ack else self.unacked).append(answer)

    def _hold(self, response: Response, bad: Mapping[str, str]) -> None:
        url = response.type_url
        holds = self.holds.setdefault(url, {})
        for name, version in carried(response):
            if name not in bad and (url in self.wild or name in self.names.get(url, ())):
                holds[name] = version
                self.absent.discard((url, name))

    # -- what differs between the protocols ---------------------------------------------------------------------

    def _stream(self) -> Any:
        return compared(DeltaStream)

    def _parse(self, raw: bytes) -> Response:
        return DeltaDiscoveryResponse.FromString(raw)

    def _wish(
        self, url: str, subscribe: Sequence[str], unsubscribe: Sequence[str], initial: Mapping[str, str]
    ) -> DeltaDiscoveryRequest | DiscoveryRequest:
        return DeltaDiscoveryRequest(
            type_url=url,
            resource_names_subscribe=subscribe,
            resource_names_unsubscribe=unsubscribe,
            initial_resource_versions=initial,
        )

    def _apply(self, response: Response, bad: Mapping[str, str]) -> None:
        assert isinstance(response, DeltaDiscoveryResponse)
        self._hold(response, bad)
        for name in response.removed_resources:
            self.holds[response.type_url].pop(name, None)
            self.absent.add((response.type_url, name))

    def _answer(self, response: Response, *, refused: bool) -> DeltaDiscoveryRequest | DiscoveryRequest:
        return DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)


class SotwPair(StreamPair):
    """The same client speaking state of the world: all names in every request, the latest nonce and version."""

    tells_absence = False

    def _reset(self) -> None:
        super()._reset()
        self.nonces: dict[str, str] = {}
        self.named: set[str] = set()
        self.versions: dict[str, str] = getattr(self, "versions", {})

    def _stream(self) -> Any:
        return compared(SotwStream)

    def _parse(self, raw: bytes) -> Response:
        return DiscoveryResponse.FromString(raw)

    def _wish(
        self, url: str, subscribe: Sequence[str], unsubscribe: Sequence[str], initial: Mapping[str, str]
    ) -> DeltaDiscoveryRequest | DiscoveryRequest:
        return self._request(url)

    def send_stale(self, short: str) -> None:
        """As in delta; here its names must count for nothing too."""
        if SHORT[short] in self.nonces:
            self.up.append(DiscoveryRequest(type_url=SHORT[short], response_nonce="0", resource_names=["stranger"]))

    def _request(self, url: str) -> DiscoveryRequest:
        names = sorted(self.names.get(url, ()))
        if url in self.wild and (names or url in self.named):
            names.append("*")
        if names:
            self.named.add(url)
        version, nonce = self.versions.get(url, ""), self.nonces.get(url, "")
        return DiscoveryRequest(type_url=url, resource_names=names, version_info=version, response_nonce=nonce)

    def _apply(self, response: Response, bad: Mapping[str, str]) -> None:
        url = response.type_url
        self._hold(response, bad)
        if url in WILDCARD_TYPES:
            there = {name for name, _ in carried(response)}
            for name in self.holds[url].keys() - there:
                del self.holds[url][name]

    def _answer(self, response: Response, *, refused: bool) -> DeltaDiscoveryRequest | DiscoveryRequest:
        assert isinstance(response, DiscoveryResponse)
        self.nonces[response.type_url] = response.nonce
        if not refused:
            self.versions[response.type_url] = response.version_info
        return self._request(response.type_url)


def bodies(response: Response) -> list[tuple[str, str, bytes]]:
    """Name, version and body of every resource in a response."""
    if isinstance(response, DeltaDiscoveryResponse):
        return [(r.name, r.version, r.resource.value) for r in response.resources]
    named = [(Cluster.FromString(r.value).name, r.value) for r in response.resources]
    return [(name, encode(response.type_url, name, body).version, body) for name, body in named]


def carried(response: Response) -> list[tuple[str, str]]:
    """Name and version of every resource in a response."""
    return [(name, version) for name, version, _ in bodies(response)]


def told(responses: Sequence[Response]) -> list[str]:
    """Responses in words: `CDS +a +b -c`."""
    return [
        " ".join(
            [
                LONG.get(r.type_url, r.type_url),
                *sorted(f"+{name}" for name, _ in carried(r)),
                *(f"-{name}" for name in sorted(getattr(r, "removed_resources", ()))),
            ]
        )
        for r in responses
    ]
