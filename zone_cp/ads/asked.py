"""Asked: what one stream's client has said of one resource type, and what follows for what it holds. No IO.

See `subscription`, which adds what the client must be told.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from shared.events.state import Position
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest
from zone_cp.ads.batch import Batch
from zone_cp.ads.facts import Acked, Fact, Nacked, Part, RemoteProtocolError, Sent, split_suspects
from zone_cp.ads.on_demand import NOTHING_ON_DEMAND, OnDemand, accepted
from zone_cp.xds.snapshot import CLUSTER, LISTENER, Encoded

WILDCARD = "*"
UNCERTAIN = ""
LEGACY_WILDCARD_TYPES = frozenset({CLUSTER, LISTENER})
MAX_NAMES_PER_TYPE = 100_000
MAX_REJECTED_PER_TYPE = 1_024

Resources: TypeAlias = Mapping[str, Encoded]


class Asked:
    """One type on one stream, as its client has it."""

    __slots__ = (
        "_absent", "_apart", "_backlog", "_demand", "_named", "_owed", "_scanned", "_strays", "_suspects",
        "_touched", "_uncertain", "acked_position", "asked", "gone", "held", "in_flight", "known", "names", "rejected",
        "reply_due", "resumed", "sent_position", "type_url", "wildcard",
    )  # fmt: skip

    def __init__(self, type_url: str) -> None:
        """Nothing asked yet."""
        self.type_url = type_url
        self.wildcard = False
        self.names: set[str] = set()
        self.known: dict[str, str] = {}
        self.held: dict[str, Encoded | str] = {}
        self.rejected: dict[tuple[str, str], str] = {}
        self.in_flight: dict[str, Sent] = {}
        self.gone: set[str] = set()
        self.asked = False
        self.reply_due = False
        self.resumed = False
        self.sent_position: Position | None = None
        self.acked_position: Position | None = None
        self._named = False
        self._owed: dict[str, None] = {}
        self._absent: dict[str, None] = {}
        self._uncertain: dict[str, None] = {}
        self._touched: dict[str, None] = {}
        self._scanned: Resources | None = None
        self._suspects: list[tuple[str, ...]] = []
        self._apart = False
        self._backlog: tuple[Part, ...] = ()
        self._strays: dict[str, None] = {}
        self._demand = OnDemand() if type_url == CLUSTER else NOTHING_ON_DEMAND

    @property
    def suspecting(self) -> bool:
        """Whether resources of a refused response are still to be sent apart."""
        return bool(self._suspects)

    def request(self, request: DeltaDiscoveryRequest) -> None:
        """Apply the subscription part of a request: subscribe before unsubscribe (rule 11), stale nonce or not (16)."""
        first, self.asked = not self.asked, True
        initial: Mapping[str, str] = request.initial_resource_versions if first else {}
        self.resumed = self.resumed or bool(initial)
        subscribe = request.resource_names_subscribe
        if first and self.type_url == CLUSTER:
            self._demand.returns_with(name for name in subscribe if name not in initial)
        if first and not subscribe and self.type_url in LEGACY_WILDCARD_TYPES:
            self._start_wildcard()  # rule 4
        for name in subscribe:
            if name == WILDCARD:
                self._start_wildcard()
                continue
            self.names.add(name)
            self._absent.pop(name, None)
            self._touched[name] = None
            if name not in initial:  # a repeated subscribe must be answered, whatever was sent before (rule 11)
                self._owed[name] = None
        self._check_names()
        for name, version in initial.items():  # rule 12
            if self.wildcard or name in self.names:
                self.known[name] = self.held[name] = version
                self._touched[name] = None
        for name in request.resource_names_unsubscribe:
            self._unsubscribe(name)

    def replace_names(self, names: Collection[str]) -> None:
        """Apply the names of a SotW request, which are always all of them.

        Rule 4: an empty list means all clusters or listeners until the client has named anything, and nothing from
        then on; `*` may stand among names.
        """
        wanted = set(names) - {WILDCARD}
        legacy = not names and not self._named and self.type_url in LEGACY_WILDCARD_TYPES
        self.asked, self._named = True, self._named or bool(names)
        if legacy or WILDCARD in names:
            self._start_wildcard()
        else:
            self.wildcard = self.reply_due = False
        self._touched.update(dict.fromkeys(wanted - self.names))
        self.names = wanted
        self._check_names()
        for name in [*self.known, *self._absent]:
            if not self._wanted(name):
                self._forget(name)  # to be sent again when it is named again (rule 10)

    def _check_names(self) -> None:
        if len(self.names) > MAX_NAMES_PER_TYPE:
            message = f"more than {MAX_NAMES_PER_TYPE} names of {self.type_url}"
            raise RemoteProtocolError(message, limit=True)

    def _start_wildcard(self) -> None:
        if not self.wildcard:
            self.wildcard = self.reply_due = True
            self._scanned = None

    def _unsubscribe(self, name: str) -> None:
        if name == WILDCARD:
            if self.wildcard:
                self.wildcard = self.reply_due = False
                for other in [n for n in self.known if n not in self.names]:
                    self._forget(other)
        elif self.wildcard:
            self.names.discard(name)
            self.owe(name)  # rule 14
        elif name in self.names:
            self.names.discard(name)
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._recall()
        self.known.pop(name, None)
        self.gone.discard(name)
        self._owed.pop(name, None)
        self._absent.pop(name, None)
        self._uncertain.pop(name, None)
        held = self.held.get(name)
        if not (isinstance(held, Encoded) and any(key[0] == name for key in self.rejected)):
            self.held.pop(name, None)  # else it is what a new subscription gets in place of the rejected one

    def forgive(self, name: str, version: str) -> None:
        """A version that was refused may be sent again."""
        self.rejected.pop((name, version), None)
        self._touched[name] = None

    def lose(self, name: str, reason: str) -> str | None:
        """The client dropped what it had accepted: as if it had refused it. The version; None where it has none."""
        held = self.held.pop(name, None)
        if held is None or any(name == one.name for sent in self.in_flight.values() for one in sent.upserts):
            return None
        self.known.pop(name, None)
        self.rejected[name, version_of(held)] = reason
        self._touched[name] = None
        return version_of(held)

    def owe(self, name: str) -> None:
        """Send this name again, changed or not."""
        self._owed[name] = None
        self._touched[name] = None

    def settle(self, nonce: str, error: str | None) -> Fact | None:
        """Apply an ACK or, with the client's error, a NACK; a nonce that is not in flight says nothing (rule 16)."""
        sent = self.in_flight.pop(nonce, None)
        if sent is None:
            return None
        if error is not None:
            return self._refuse(sent, nonce, error)
        batch = sent.upserts if isinstance(sent.upserts, Batch) else Batch(sent.upserts)
        for name in batch.versions if self._uncertain else ():
            self._uncertain.pop(name, None)
        if self.wildcard and self._demand.idle:
            self.held.update(batch.named)
        else:
            self.held.update((name, one) for name, one in batch.named.items() if self._wanted(name))
        for name in sent.removed:
            self._uncertain.pop(name, None)
            self.held.pop(name, None)
        self.acked_position = sent.position
        taken = batch.pairs if self._demand.idle else accepted(batch)
        return Acked(self.type_url, nonce, sent.position, taken, sent.removed)

    def _refuse(self, sent: Sent, nonce: str, message: str) -> Nacked:
        names = tuple(e.name for e in sent.upserts)
        culprit: tuple[tuple[str, str], ...] = ()
        if len(sent.upserts) == 1:
            (encoded,) = sent.upserts
            culprit = ((encoded.name, encoded.version),)
            self.rejected[culprit[0]] = message
            if len(self.rejected) > MAX_REJECTED_PER_TYPE:
                del self.rejected[next(iter(self.rejected))]
        elif sent.upserts:
            self._suspects.extend(split_suspects(names, message))
        if len(sent.upserts) + len(sent.removed) > 1:
            self._uncertain.update(dict.fromkeys((*names, *sent.removed)))
        pending = self._pending()
        for name in (*names, *sent.removed) if names else ():  # a refused removal alone is not sent again
            if name not in pending:
                self._absent.pop(name, None)
                self._revert(name)
        return Nacked(self.type_url, nonce, sent.position, message, names, culprit)

    def _pending(self) -> set[str]:
        """Names that a response still in flight decides about."""
        sent = self.in_flight.values()
        return {e.name for s in sent for e in s.upserts} | {name for s in sent for name in s.removed}

    def _revert(self, name: str) -> None:
        held = self.held.get(name)
        self._touched[name] = None
        if not self._wanted(name):
            self._forget(name)
        elif name in self._uncertain:
            self.known[name] = UNCERTAIN
            if self._scanned is not None and name not in self._scanned:
                self.gone.add(name)
        elif held is None:
            self.known.pop(name, None)
            self.gone.discard(name)
        else:
            self.known[name] = version_of(held)

    def backlog(self) -> tuple[Part, ...]:
        """What the last comparison found and had to wait; good as long as nothing is to be compared again."""
        parts, self._backlog = self._backlog, ()
        return parts

    def _recall(self) -> None:
        """Compare anew what waits: something has changed since."""
        for upserts, _ in self.backlog():
            self._touched.update(dict.fromkeys(one.name for one in upserts))

    def _wanted(self, name: str) -> bool:
        if name in self.names:
            return True
        return self.wildcard and (not self._demand.covers(name) or name in self.known)


def version_of(held: Encoded | str) -> str:
    """The version of something the client holds."""
    return held if isinstance(held, str) else held.version
