"""Preflight: a real past through this and another installed version of the compiler, and where they differ.

Each version runs in processes of its own and reads the same bundle; what they say is compared here. They share nothing
but the contract of `zonal compile`: lines of JSON, the first with the contract's number.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from shared.history.between import Group, ZoneDifference, alike
from shared.history.difference import ResourceChange, fields_between

CONTRACT = 1
COMPILED = "zone_cp.compiled"
"""Imported by name: `shared` imports neither plane."""
BODIES_MAX = 24
"""Proxies of which the other version is asked for everything: one per group of equal changes."""
TIMEOUT_SECONDS = 900

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")

Moved: TypeAlias = tuple[str, str, str, str]
"""Type, name, and digest before and after ("": not there)."""
Place: TypeAlias = tuple[str, str]
"""Zone and proxy."""


class CannotRun(Exception):
    """There is no such version, or it does not keep the contract; the message says why."""


class Installation(msgspec.Struct, frozen=True):
    """How to run one version: its command, and what its environment has besides ours."""

    command: tuple[str, ...]
    environment: dict[str, str] = {}


HERE = Installation((sys.executable, "-P", "-m", "shared.cli"))
"""This version."""


def installation(named: str) -> Installation:
    """What `--with` names: a python or venv, a source tree, or a version on the PATH as `zonal-<version>`.

    Raises CannotRun.
    """
    place = Path(named)
    if (place / "shared" / "cli.py").is_file():
        return Installation(HERE.command, {"PYTHONPATH": str(place.resolve())})
    for python in (place / "bin" / "python", place):
        if python.is_file() and os.access(python, os.X_OK):
            return Installation((str(python.absolute()), "-P", "-m", "shared.cli"))
    try:
        return installed(named)
    except CannotRun as error:
        raise CannotRun(f'"{named}" is no python, venv or source tree, and {error}') from None


def installed(version: str) -> Installation:
    """What whoever runs this process has put on the PATH as `zonal-<version>`, and nothing else. Raises CannotRun."""
    found = shutil.which(f"zonal-{version}") if _VERSION.fullmatch(version) else None
    if found is None:
        raise CannotRun(f"there is no zonal-{version} on the PATH")
    return Installation((found,))


class Said(msgspec.Struct, frozen=True):
    """What a version said: its version, digests and bodies by zone and proxy, and what it cannot compile."""

    version: str
    digests: dict[Place, Mapping[str, Mapping[str, str]]]
    bodies: dict[Place, Mapping[str, Mapping[str, Any]]]
    faults: dict[Place, str]


def preflight(bundle: Path, ours: Installation, theirs: Installation, at: str | None = None) -> dict[str, Any]:
    """Where the two differ on a bundle, by zone. Raises CannotRun."""
    with ThreadPoolExecutor(2) as pool:  # each is a process of its own
        one, other = pool.map(lambda each: _run(each, bundle, at), (ours, theirs))
    groups = _groups(one.digests, other.digests)
    asked = sorted({proxy for places, _ in groups[:BODIES_MAX] for _, proxy in places[:1]})
    full = [_run(each, bundle, at, asked).bodies if asked else {} for each in (ours, theirs)]
    zones = sorted({zone for zone, _ in (*one.digests, *other.digests, *one.faults, *other.faults)})
    return {
        "ours": one.version,
        "theirs": other.version,
        "items": [_zone(zone, one, other, groups, full).plain() for zone in zones],
    }


def _run(version: Installation, bundle: Path, at: str | None, bodies: Sequence[str] = ()) -> Said:
    words = ["compile", "--from-bundle", str(bundle), *(("--at", at) if at else ())]
    words += [word for proxy in bodies for word in ("--body", proxy)]
    with tempfile.TemporaryDirectory(prefix="zonal-preflight-") as cache:
        # Neither version reads what the other has kept of the bundle.
        environment = {**os.environ, "XDG_CACHE_HOME": cache, **version.environment}
        try:
            done = subprocess.run(
                [*version.command, *words],
                capture_output=True, env=environment, timeout=TIMEOUT_SECONDS, check=False, cwd=cache,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotRun(f"{version.command[0]}: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-8:]
        raise CannotRun(f"{' '.join(version.command)} compile ended with {done.returncode}:\n" + "\n".join(said))
    return _read(done.stdout)


def _read(out: bytes) -> Said:
    try:
        first, *lines, last = [msgspec.json.decode(line) for line in out.splitlines()]
        if first["contract"] != CONTRACT or last["end"] != len(lines):
            raise CannotRun(f"the other version speaks contract {first['contract']}, or broke off")
        said = Said(first["zonal"], {}, {}, {})
        for line in lines:
            for proxy in line["proxies"]:
                place = (line["zone"], proxy)
                said.digests[place] = line.get("digests", {})
                said.bodies[place] = line.get("bodies", {})
                if line["fault"]:
                    said.faults[place] = line["fault"]
    except (KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise CannotRun(f"the other version does not keep the contract: {error!r}") from None
    return said


def _groups(
    ours: Mapping[Place, Mapping[str, Mapping[str, str]]], theirs: Mapping[Place, Mapping[str, Mapping[str, str]]]
) -> list[tuple[tuple[Place, ...], list[Moved]]]:
    who: dict[Moved, list[Place]] = {}
    for place in sorted(ours.keys() & theirs.keys()):
        for kind in ours[place].keys() | theirs[place].keys():
            was, now = ours[place].get(kind, {}), theirs[place].get(kind, {})
            for name in was.keys() | now.keys():
                if was.get(name) != now.get(name):
                    who.setdefault((kind, name, was.get(name, ""), now.get(name, "")), []).append(place)
    together: dict[tuple[Place, ...], list[Moved]] = {}
    for what, places in who.items():
        together.setdefault(tuple(places), []).append(what)
    return sorted(together.items(), key=lambda item: (-len(item[0]), item[0]))


def _zone(
    zone: str,
    ours: Said,
    theirs: Said,
    groups: Sequence[tuple[tuple[Place, ...], list[Moved]]],
    full: Sequence[Mapping[Place, Mapping[str, Mapping[str, Any]]]],
) -> ZoneDifference:
    known, other = ({proxy for where, proxy in said.digests if where == zone} for said in (ours, theirs))
    found = []
    for places, changes in groups:
        here = tuple(proxy for where, proxy in places if where == zone)
        if here:
            told = [_told(what, [side.get(places[0], {}) for side in full]) for what in sorted(changes)]
            found.append(Group(here, alike(told)))
    return ZoneDifference(
        zone,
        f"zonal {ours.version}",
        f"zonal {theirs.version}",
        tuple(found),
        len(known & other),
        tuple(sorted(other - known)),
        tuple(sorted(known - other)),
        {proxy: fault for (where, proxy), fault in sorted(theirs.faults.items()) if where == zone},
    )


def _told(what: Moved, sides: Sequence[Mapping[str, Mapping[str, Any]]]) -> ResourceChange:
    kind, name, was, now = what
    if not was or not now:
        return ResourceChange(kind, name, "removed" if was else "added")
    before, after = (side.get(kind, {}).get(name) for side in sides)
    fields = fields_between(before, after) if before is not None and after is not None else ()
    return ResourceChange(kind, name, "changed", fields)
