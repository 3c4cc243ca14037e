"""Pins: the snapshots that stay in use because a listener, route or cluster is held at its last good version.

Whoever refused a newer version goes on using what the snapshots have that the held one came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from zone_cp.ads.stages import version_in
from zone_cp.ads.subscription import Subscription, version_of
from zone_cp.xds.snapshot import CLUSTER, LISTENER, ROUTE, Snapshot

PINNING = (CLUSTER, LISTENER, ROUTE)
USERS = {LISTENER: (), ROUTE: (LISTENER,), CLUSTER: (LISTENER, ROUTE)}
"""By type, what may use it; any of PINNING where nothing is said."""


class Pins:
    """The pins of one stream, by type and name of what is held."""

    __slots__ = ("_pinned",)

    def __init__(self) -> None:
        """Nothing was refused yet."""
        self._pinned: dict[tuple[str, str], tuple[Snapshot, ...]] = {}

    def __bool__(self) -> bool:
        """Whether anything is pinned."""
        return bool(self._pinned)

    def pin(self, subscription: Subscription, names: Sequence[str], retained: Callable[[], Sequence[Snapshot]]) -> None:
        """New versions of these names were refused: of what is retained, pin what has the held ones."""
        type_url = subscription.type_url
        for name in names if type_url in PINNING else ():
            held = subscription.held.get(name)
            if held is None or (type_url, name) in self._pinned:
                continue
            version = version_of(held)
            found = [one for one in retained() if version_in(one, type_url, name) == version]
            if found:
                self._pinned[type_url, name] = tuple(found)

    def release(self, target: Snapshot, subscription_of: Callable[[str], Subscription]) -> None:
        """Let go of what is not held any more, or wanted just as it is held."""
        for type_url, name in list(self._pinned):
            held = subscription_of(type_url).held.get(name)
            if held is None or version_in(target, type_url, name) == version_of(held):
                del self._pinned[type_url, name]

    def unpin(self, type_url: str, names: Sequence[str]) -> None:
        """These names were accepted, or are not asked for any more."""
        for name in names if self._pinned else ():
            self._pinned.pop((type_url, name), None)

    def of_users(self, type_url: str) -> Iterator[Snapshot]:
        """What is pinned by anything that may use resources of a type: a pin keeps what the pinned resource uses, not
        the resource itself.
        """
        used_by = USERS.get(type_url, PINNING)
        return (one for (owner, _), pinned in self._pinned.items() if owner in used_by for one in pinned)
