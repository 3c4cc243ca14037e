"""Everything that a past compiles to, for another version of this program to compare with its own. Pure.

What leaves here is a contract between versions (`shared.history.preflight`): digests by zone, proxy, type and name, and
on demand resources as plain data. Add to it; do not change it without counting up CONTRACT there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from shared.events.history import History
from zone_cp.replay import RedactedSecrets
from zone_cp.xds.fleet import first_turn
from zone_cp.xds.inspect import plain, short_type


def compiled(history: History, at: str | None, bodies: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Proxies that were online at a moment, those in equal situation together: their ids and digests by type and name.

    bodies: proxies whose resources are told in full, and no others. A group that cannot be compiled has a fault.
    """
    for zone in sorted(history.zones):
        fleet = first_turn(history.state(zone, history.position(zone, at)), RedactedSecrets()).fleet
        for group in fleet.groups.values():
            proxies = sorted(group.members if not bodies else set(group.members) & set(bodies))
            if not proxies:
                continue
            told: dict[str, Any] = {"zone": zone, "proxies": proxies, "fault": group.fault}
            if group.compiled is None:
                yield told
            elif bodies:
                yield {**told, "bodies": plain(group.compiled.assembly.snapshot)}
            else:
                resources = group.compiled.assembly.snapshot.resources
                yield {
                    **told,
                    "digests": {
                        short_type(url): {name: one.version for name, one in sorted(names.items())}
                        for url, names in sorted(resources.items())
                        if names
                    },
                }
