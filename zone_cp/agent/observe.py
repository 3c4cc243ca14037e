"""From Envoy's access log to what is worth telling: transitions of a destination between failing and working.

Envoy reports a failed handshake towards the outside nowhere but in `%UPSTREAM_TRANSPORT_FAILURE_REASON%`. The
control plane therefore gives the listeners of a proxy whose node features name `access-log=<path>` an access log on
that path, a FIFO of the agent, one JSON object per line with (other fields are ignored):

    {"cluster": "%UPSTREAM_CLUSTER_RAW%", "flags": "%RESPONSE_FLAGS%", "code": "%RESPONSE_CODE%",
     "reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%", "host": "%UPSTREAM_HOST%"}

`host` is optional; with it a denial (403) by a policy is told from one by the destination.
Lines without a time or an id are equal when they say the same, so a burst of a million requests costs one lookup
per distinct line and read. Pure: the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

CLUSTER_PREFIX, CLUSTER_PARTS = "mes/", 4
"""`mes/<class>/<mesh>/<sni>`; shorter names such as `mes/forbidden` are no destinations."""
MAX_REASON = 512
MAX_LINES_REMEMBERED = 4096
MAX_CLUSTERS = 20_000
BURST = 4
"""Transitions a cluster may report at once …"""
REFILL_SECONDS = 10.0
"""… and the time until it may report one more: a flapping service costs six events a minute."""

FAILURE_FLAGS = frozenset({"UF", "UC", "UH", "UO", "UT", "UR", "DF", "URX", "UPE", "OM"})
"""Envoy's response flags that say the destination, not the request or the policy, failed.

NC (no such cluster) is not among them: the name then comes from the client, and is of nothing.
"""


class Line(msgspec.Struct, frozen=True):
    """One access log line. Envoy writes null or "-" for what it does not know."""

    cluster: str | None = None
    flags: str | None = None
    reason: str | None = None
    code: int | str | None = None
    host: str | msgspec.UnsetType | None = msgspec.UNSET


class Transition(msgspec.Struct, frozen=True):
    """A destination changed: it fails for another reason than before, or works again (reason "")."""

    cluster: str
    failing: bool
    reason: str


_decode = msgspec.json.Decoder(Line).decode


def outcome(raw: bytes) -> Transition | None:
    """What one line says about a destination, None for nothing. Lines that are no JSON say nothing."""
    try:
        line = _decode(raw)
    except msgspec.MsgspecError:
        return None
    cluster = line.cluster or ""
    if not cluster.startswith(CLUSTER_PREFIX) or cluster.count("/") < CLUSTER_PARTS - 1:
        return None
    flags = set((line.flags or "").split(",")) & FAILURE_FLAGS
    if flags:
        reason = line.reason if line.reason and line.reason != "-" else ",".join(sorted(flags))
        return Transition(cluster, True, reason[:MAX_REASON])
    denied = str(line.code) == "403" if line.host is msgspec.UNSET else line.host in (None, "", "-")
    if (line.flags or "-") != "-" or denied:
        return None  # ended before the destination was asked: a denial, a local reply, the client gave up
    return Transition(cluster, False, "")


class _Destination:
    __slots__ = ("now_failing", "reported", "tokens", "told", "updated")

    def __init__(self, now: float) -> None:
        # The first outcome is told even when it is good: a control plane may remember a failure from before a restart.
        self.told = False
        self.reported: str | None = None  # the reason last told, None for "works"
        self.now_failing: str | None = None
        self.tokens = float(BURST)
        self.updated = now


class Outcomes:
    """Per destination: what happened last, what was told last, and whether it may tell again (a token bucket)."""

    def __init__(self) -> None:
        self._destinations: dict[str, _Destination] = {}
        self._owing: dict[str, None] = {}
        self._lines: dict[bytes, Transition | None] = {}

    def feed(self, lines: Iterable[bytes], now: float) -> list[Transition]:
        """Take lines in order; what is to be reported at once. Equal lines count at their last place."""
        for raw in reversed(dict.fromkeys(reversed(list(lines)))):
            said = self._read(raw)
            if said is not None:
                self._note(said, now)
        return self.due(now)

    def due(self, now: float) -> list[Transition]:
        """Reports that a limit held back and that may go now; call again at `next_due`."""
        out: list[Transition] = []
        for cluster in list(self._owing):
            destination = self._destinations[cluster]
            destination.tokens = min(BURST, destination.tokens + (now - destination.updated) / REFILL_SECONDS)
            destination.updated = now
            if destination.tokens < 1:
                continue
            destination.tokens -= 1
            destination.reported, destination.told = destination.now_failing, True
            del self._owing[cluster]
            out.append(_transition(cluster, destination.now_failing))
        return out

    def next_due(self) -> float | None:
        """When `due` will have something, None while nothing is owed."""
        waits = (self._destinations[cluster] for cluster in self._owing)
        return min((d.updated + (1 - d.tokens) * REFILL_SECONDS for d in waits), default=None)

    def failing(self) -> list[Transition]:
        """All destinations reported as failing: what a control plane that just (re)connected must be told."""
        return [_transition(name, d.reported) for name, d in self._destinations.items() if d.reported is not None]

    def _read(self, raw: bytes) -> Transition | None:
        try:
            return self._lines[raw]
        except KeyError:
            if len(self._lines) >= MAX_LINES_REMEMBERED:
                self._lines.clear()
            said = self._lines[raw] = outcome(raw)
            return said

    def _note(self, said: Transition, now: float) -> None:
        destination = self._destinations.get(said.cluster)
        if destination is None:
            if len(self._destinations) >= MAX_CLUSTERS:
                self._forget()
            destination = self._destinations[said.cluster] = _Destination(now)
        destination.now_failing = said.reason if said.failing else None
        if destination.told and destination.now_failing == destination.reported:
            self._owing.pop(said.cluster, None)
        else:
            self._owing[said.cluster] = None

    def _forget(self) -> None:
        quiet = [name for name, d in self._destinations.items() if d.reported is None and name not in self._owing]
        for name in quiet or [next(iter(self._destinations))]:
            self._owing.pop(name, None)
            del self._destinations[name]


def _transition(cluster: str, reason: str | None) -> Transition:
    return Transition(cluster, reason is not None, reason or "")
