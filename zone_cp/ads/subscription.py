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

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from zone_cp.ads.asked import Asked, Resources, version_of
from zone_cp.ads.batch import Batch
from zone_cp.ads.facts import Due, Part, Sent
from zone_cp.view.lineage import UNKNOWN, Lineage
from zone_cp.xds.snapshot import Encoded
from zone_cp.xds.tombstone import Tombstone, tombstone

__all__ = ["Resources", "Subscription", "version_of"]


class Subscription(Asked):
    """One type on one stream: what its client must be told."""

    __slots__ = ()

    def load_on_demand(self, prefix: str) -> None:
        """From now on what is named like this goes only to who names or holds it ("": everything to the wildcard)."""
        if self._demand.switch(prefix):
            self._scanned = None

    def quiet(self, current: Resources) -> bool:
        """Whether comparing with `current` once more would find nothing to tell, not even a removal."""
        return current is self._scanned and not (self._touched or self.gone or self.reply_due or self._suspects)

    def rests(self, current: Resources) -> bool:
        """Whether nothing is unanswered either, and nothing waits for an answer."""
        return not (self.in_flight or self._backlog) and (not self.asked or self.quiet(current))

    def is_told(self, current: Resources) -> bool:
        """Whether all of `current` was said; some of it may be unanswered."""
        return not self._backlog and self.quiet(current)

    def due(
        self,
        current: Resources,
        older: Callable[[], Sequence[Resources]],
        newer: Sequence[Resources] = (),
        lineage: Lineage = UNKNOWN,
    ) -> Due:
        """Compare what is desired with what is known.

        current is what the type should be now; older are resources on their way out (still served to who asks
        by name); newer are those that are not to be sent yet (a name found there only is left waiting). lineage is
        current's: with it only names are looked at that changed since the last comparison.
        """
        self._recall()
        plain = self.wildcard and self._demand.idle and not (self._owed or self.rejected)
        if plain and not (self.known or self.names or self._touched):  # a first sync, the longest comparison there is
            self._scanned, self.gone = current, set()
            return Due(tuple(current.values()))
        names = self._candidates(current, lineage)
        self._touched = {}
        self._scanned = current
        upserts: list[Encoded] = []
        absent: list[str] = []
        for name in names:
            encoded = current.get(name)
            if encoded is not None and name not in self._owed and self.known.get(name) == encoded.version:
                continue
            if encoded is not None and plain:
                upserts.append(encoded)
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
        if self.wildcard and self._demand.idle and not self._touched:
            return iter(changed)
        return iter(dict.fromkeys(chain((name for name in changed if self._wanted(name)), self._touched)))

    def _compare(  # noqa: PLR0917 — one step of the loop above, apart for its length
        self,
        name: str,
        encoded: Encoded | None,
        upserts: list[Encoded],
        absent: list[str],
        older: Callable[[], Sequence[Resources]],
        newer: Sequence[Resources],
    ) -> None:
        explicit, owed = name in self.names, name in self._owed
        if encoded is None:
            if (explicit or owed) and any(name in resources for resources in newer):
                self._touched[name] = None
                return
            self._miss(name)  # told by remove() once nothing refers to it
            if owed:
                encoded = next((resources[name] for resources in older() if name in resources), None)
                self._strays.update({} if encoded is None else {name: None})
        chosen = None if encoded is None else self._acceptable(encoded)
        self._owed.pop(name, None)
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
        if self._is_tombstone(name):
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

    def lost(self, current: Resources, lineage: Lineage) -> tuple[str, ...]:
        """Names the client holds that `current` has not, also before the two are compared; tombstones are no loss."""
        changed = self.gone if current is self._scanned else lineage.since(self._scanned)
        names = self.known if changed is None else {*self.gone, *changed}
        gone = (name for name in sorted(names) if name in self.known and name not in current)
        return tuple(name for name in gone if not (self._demand.stands(name) or self._is_tombstone(name)))

    def replaces(self, part: Part) -> bool:
        """Whether a part that was not sent yet takes away or replaces what the client holds."""
        upserts, removed = part
        return bool(removed) or any(one.name in self.known for one in upserts)

    def _is_tombstone(self, name: str) -> bool:
        return self._demand.covers(name) and self.known[name] == tombstone(name).version

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
        self._apart = bool(self._suspects)
        if not self._suspects:
            return [upserts] if upserts else []
        suspects, self._suspects = self._suspects, []
        left = {encoded.name: encoded for encoded in upserts}
        out = []
        for names in suspects:
            group = tuple(left.pop(name) for name in names if name in left)
            if group:
                out.append(group)
        return [tuple(left.values()), *out] if left else out

    def postpone(self, parts: Sequence[Part]) -> None:
        """Leave parts of what was due for later; suspects stay apart from each other and from all else."""
        if not self._apart:
            self._backlog = tuple(parts)
            return
        groups = [group for group, _ in parts if group]
        self._suspects = [tuple(e.name for e in group) for group in groups] + self._suspects
        for group in groups:
            self._owed.update(dict.fromkeys(e.name for e in group))
            self._touched.update(dict.fromkeys(e.name for e in group))

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
        if isinstance(sent.upserts, Batch) and self._demand.idle and not (self._absent or self._strays or self.gone):
            self.known.update(sent.upserts.versions)
        else:
            self._mark_each(sent.upserts)
        for name in sent.removed:
            self.known.pop(name, None)
            self.gone.discard(name)
            self._demand.lift(name)
            if name in self.names:
                self._absent[name] = None
        self.in_flight[nonce] = sent
        self.reply_due = False
        self.sent_position = sent.position

    def _mark_each(self, upserts: Sequence[Encoded]) -> None:
        for encoded in upserts:
            self.known[encoded.name] = encoded.version
            self._absent.pop(encoded.name, None)
            self._strays.pop(encoded.name, None)
            if isinstance(encoded, Tombstone):
                self._lay(encoded.name)
                continue
            self._demand.lift(encoded.name)
            if self._scanned is not None and encoded.name not in self._scanned:
                self.gone.add(encoded.name)
            else:
                self.gone.discard(encoded.name)
