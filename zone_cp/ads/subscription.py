"""Subscription: what one stream has asked for, been sent and accepted of one resource type. A value machine, no IO.

Theory of operation. Two maps describe the client: `known` is what it will hold once everything in flight is
accepted, `held` is what it has said it holds (by ACK, or by initial_resource_versions on a new stream). A
resource is due when the desired version differs from `known`, or when the protocol owes an answer (`owed`). A
NACK puts `known` back to `held`; the (name, version) at fault is remembered in `rejected` and is never sent
again on this stream: the last accepted one stays desired in its place. When a rejected response carried several
things, nobody knows which of them were applied (xds.md §3.6): they become `UNCERTAIN`, which equals no version, and
are sent again in smaller groups until the guilty one is alone.

Rules: "rule n" is design/xds.md §7; the protocol is
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#incremental-xds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeAlias

from shared.events.state import Position
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest
from zone_cp.ads.facts import Acked, Due, Fact, Nacked, RemoteProtocolError, Sent, split_suspects
from zone_cp.ads.on_demand import OnDemand
from zone_cp.view.lineage import UNKNOWN, Lineage
from zone_cp.xds.snapshot import CLUSTER, LISTENER, Encoded
from zone_cp.xds.tombstone import Tombstone, tombstone

WILDCARD = "*"
UNCERTAIN = ""
LEGACY_WILDCARD_TYPES = frozenset({CLUSTER, LISTENER})
MAX_NAMES_PER_TYPE = 100_000
MAX_REJECTED_PER_TYPE = 1_024

Resources: TypeAlias = Mapping[str, Encoded]


class Subscription:
    """One type on one stream."""

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
        self.reply_due = False
        self.sent_position: Position | None = None
        self.acked_position: Position | None = None
        self._asked = False
        self._named = False
        self._owed: set[str] = set()
        self._absent: set[str] = set()
        self._uncertain: set[str] = set()
        self._touched: set[str] = set()
        self._scanned: Resources | None = None
        self._suspects: list[tuple[str, ...]] = []
        self._demand = OnDemand()

    @property
    def asked(self) -> bool:
        """Whether the client has asked for this type on this stream."""
        return self._asked

    @property
    def suspecting(self) -> bool:
        """Whether resources of a refused response are still to be sent apart."""
        return bool(self._suspects)

    # -- what the client says ---------------------------------------------------------------------------------

    def request(self, request: DeltaDiscoveryRequest) -> None:
        """Apply the subscription part of a request: subscribe before unsubscribe (rule 11), stale nonce or not (16)."""
        first, self._asked = not self._asked, True
        initial: Mapping[str, str] = request.initial_resource_versions if first else {}
        subscribe = request.resource_names_subscribe
        if first:
            self._demand.returns_with(name for name in subscribe if name not in initial)
        if first and not subscribe and self.type_url in LEGACY_WILDCARD_TYPES:
            self._start_wildcard()  # rule 4
        for name in subscribe:
            if name == WILDCARD:
                self._start_wildcard()
                continue
            self.names.add(name)
            self._absent.discard(name)
            self._touched.add(name)
            if name not in initial:  # a repeated subscribe must be answered, whatever was sent before (rule 11)
                self._owed.add(name)
        self._check_names()
        for name, version in initial.items():  # rule 12
            if self.wildcard or name in self.names:
                self.known[name] = self.held[name] = version
                self._touched.add(name)
        for name in request.resource_names_unsubscribe:
            self._unsubscribe(name)

    def replace_names(self, names: Collection[str]) -> None:
        """Apply the names of a SotW request, which are always all of them.

        Rule 4: an empty list means all clusters or listeners until the client has named anything, and nothing from
        then on; `*` may stand among names.
        """
        wanted = set(names) - {WILDCARD}
        legacy = not names and not self._named and self.type_url in LEGACY_WILDCARD_TYPES
        self._asked, self._named = True, self._named or bool(names)
        if legacy or WILDCARD in names:
            self._start_wildcard()
        else:
            self.wildcard = self.reply_due = False
        self._touched |= wanted - self.names
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
        self.known.pop(name, None)
        self.gone.discard(name)
        self._owed.discard(name)
        self._absent.discard(name)
        self._uncertain.discard(name)
        held = self.held.get(name)
        if not (isinstance(held, Encoded) and any(key[0] == name for key in self.rejected)):
            self.held.pop(name, None)  # else it is what a new subscription gets in place of the rejected one

    def owe(self, name: str) -> None:
        """Send this name again, changed or not."""
        self._owed.add(name)
        self._touched.add(name)

    def settle(self, nonce: str, error: str | None) -> Fact | None:
        """Apply an ACK or, with the client's error, a NACK; a nonce that is not in flight says nothing (rule 16)."""
        sent = self.in_flight.pop(nonce, None)
        if sent is None:
            return None
        if error is not None:
            return self._refuse(sent, nonce, error)
        for encoded in sent.upserts:
            self._uncertain.discard(encoded.name)
            if self._wanted(encoded.name):
                self.held[encoded.name] = encoded
        for name in sent.removed:
            self._uncertain.discard(name)
            self.held.pop(name, None)
        self.acked_position = sent.position
        versions = tuple((e.name, e.version) for e in sent.upserts)
        return Acked(self.type_url, nonce, sent.position, versions, sent.removed)

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
            self._uncertain.update(names, sent.removed)
        pending = self._pending()
        for name in (*names, *sent.removed) if names else ():  # a refused removal alone is not sent again
            if name not in pending:
                self._absent.discard(name)
                self._revert(name)
        return Nacked(self.type_url, nonce, sent.position, message, names, culprit)

    def _pending(self) -> set[str]:
        """Names that a response still in flight decides about."""
        sent = self.in_flight.values()
        return {e.name for s in sent for e in s.upserts} | {name for s in sent for name in s.removed}

    def _revert(self, name: str) -> None:
        held = self.held.get(name)
        self._touched.add(name)
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

    # -- what the client must be told -------------------------------------------------------------------------

    def load_on_demand(self, prefix: str) -> None:
        """From now on what is named like this goes only to who names or holds it ("": everything to the wildcard)."""
        if self._demand.switch(prefix):
            self._scanned = None

    def quiet(self, current: Resources) -> bool:
        """Whether comparing with `current` once more would find nothing to tell, not even a removal."""
        return current is self._scanned and not (self._touched or self.gone or self.reply_due or self._suspects)

    def due(
        self,
        current: Resources,
        older: Sequence[Resources],
        newer: Sequence[Resources] = (),
        lineage: Lineage = UNKNOWN,
    ) -> Due:
        """Compare what is desired with what is known.

        current is what the type should be now; older are resources on their way out (still served to who asks
        by name); newer are those that are not to be sent yet (a name found there only is left waiting). lineage is
        current's: with it only names are looked at that changed since the last comparison.
        """
        names = self._candidates(current, lineage)
        self._touched = set()
        self._scanned = current
        upserts: list[Encoded] = []
        absent: list[str] = []
        for name in names:
            encoded = current.get(name)
            if encoded is not None and name not in self._owed and self.known.get(name) == encoded.version:
                continue
            if name not in self._owed and not self._wanted(name):
                continue
            self._compare(name, encoded, upserts, absent, older, newer)
        return Due(tuple(upserts), tuple(absent))

    def _candidates(self, current: Resources, lineage: Lineage) -> Iterator[str]:
        """Names to compare; also brings `gone` up to date, which is every known name that `current` has not."""
        if current is self._scanned:
            return iter(tuple(self._touched))
        changed = lineage.since(self._scanned)
        if changed is None:
            self.gone = {name for name in self.known if name not in current and not self._demand.stands(name)}
            return iter(dict.fromkeys(chain(current if self.wildcard else (), self.names, self._touched)))
        for name in changed:
            if name in self.known and name not in current and not self._demand.stands(name):
                self.gone.add(name)
            else:
                self.gone.discard(name)
        return iter(dict.fromkeys(chain((name for name in changed if self._wanted(name)), self._touched)))

    def _compare(  # noqa: PLR0917 — one step of the loop above, apart for its length
        self,
        name: str,
        encoded: Encoded | None,
        upserts: list[Encoded],
        absent: list[str],
        older: Sequence[Resources],
        newer: Sequence[Resources],
    ) -> None:
        explicit, owed = name in self.names, name in self._owed
        if encoded is None:
            if (explicit or owed) and any(name in resources for resources in newer):
                self._touched.add(name)
                return
            self._miss(name)  # told by remove() once nothing refers to it
            if owed:
                encoded = next((resources[name] for resources in older if name in resources), None)
        chosen = None if encoded is None else self._acceptable(encoded)
        self._owed.discard(name)
        if chosen is not None:
            if owed or self.known.get(name) != chosen.version:
                upserts.append(chosen)
        elif (name not in self.known or self._demand.stands(name)) and (
            owed or (explicit and name not in self._absent and name not in self.known)
        ):
            stone = self._demand.answer(name, refused=encoded is not None)
            upserts.extend([stone] if stone is not None else ())
            absent.extend([name] if stone is None else ())  # rule 13

    def _miss(self, name: str) -> None:
        if name not in self.known:
            return
        self.gone.add(name)
        if self._demand.covers(name) and self.known[name] == tombstone(name).version:
            self._lay(name)

    def _lay(self, name: str) -> None:
        self.gone.discard(name)
        self.gone.update(self._demand.lay(name))

    def tombstones(self, names: Sequence[str]) -> tuple[Encoded, ...]:
        """What replaces those of these names that the client loaded on demand; tombstones are replaced by nothing."""
        made = (tombstone(name) for name in names if self._demand.covers(name))
        return tuple(one for one in made if self.known.get(one.name) != one.version)

    def _acceptable(self, encoded: Encoded) -> Encoded | None:
        """The resource, or the last accepted one in place of a rejected one."""
        if (encoded.name, encoded.version) not in self.rejected:
            return encoded
        held = self.held.get(encoded.name)
        if isinstance(held, Encoded) and (held.name, held.version) not in self.rejected:
            return held
        return None

    def removable(self, retained: Sequence[Resources]) -> tuple[str, ...]:
        """Names the client holds that no retained snapshot has (rule 15: only what the client could hold)."""
        if not self.gone:
            return ()
        return tuple(
            name
            for name in sorted(self.gone)
            if name in self.known and not any(name in resources for resources in retained)
        )

    def groups(self, upserts: tuple[Encoded, ...]) -> list[tuple[Encoded, ...]]:
        """Split what is due so that suspects of a refused response travel apart from all others."""
        suspects, self._suspects = self._suspects, []
        left = {encoded.name: encoded for encoded in upserts}
        out = []
        for names in suspects:
            group = tuple(left.pop(name) for name in names if name in left)
            if group:
                out.append(group)
        return [tuple(left.values()), *out] if left else out

    def postpone(self, groups: Sequence[tuple[Encoded, ...]]) -> None:
        """Leave groups for later: they stay apart from each other and from all else."""
        self._suspects = [tuple(e.name for e in group) for group in groups if group] + self._suspects
        for group in groups:
            self._owed.update(e.name for e in group)
            self._touched.update(e.name for e in group)

    def accepted(self) -> dict[str, Encoded]:
        """What the client is to go on holding of what it has accepted."""
        return {name: held for name, held in self.held.items() if name in self.known and isinstance(held, Encoded)}

    def mark_gone(self, names: Sequence[str]) -> None:
        """The client may hold these no more, and there is no way to tell it."""
        for name in names:
            self.known.pop(name, None)
            self.held.pop(name, None)
            self.gone.discard(name)

    def mark_sent(self, nonce: str, sent: Sent) -> None:
        """Record a response as on its way; `known` changes now, not at the ACK (rule 16)."""
        for encoded in sent.upserts:
            self.known[encoded.name] = encoded.version
            self._absent.discard(encoded.name)
            if isinstance(encoded, Tombstone):
                self._lay(encoded.name)
                continue
            self._demand.lift(encoded.name)
            if self._scanned is not None and encoded.name not in self._scanned:
                self.gone.add(encoded.name)
            else:
                self.gone.discard(encoded.name)
        for name in sent.removed:
            self.known.pop(name, None)
            self.gone.discard(name)
            self._demand.lift(name)
            if name in self.names:
                self._absent.add(name)
        self.in_flight[nonce] = sent
        self.reply_due = False
        self.sent_position = sent.position

    def _wanted(self, name: str) -> bool:
        if name in self.names:
            return True
        return self.wildcard and (not self._demand.covers(name) or name in self.known)


def version_of(held: Encoded | str) -> str:
    """The version of something the client holds."""
    return held if isinstance(held, str) else held.version
