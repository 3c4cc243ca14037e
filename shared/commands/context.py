"""The client's context: which control plane a command talks to, and as whom.

Flags win over `ZONAL_API` and `ZONAL_TOKEN_FILE`, these over a context file: the one `ZONAL_CONTEXT` names,
`.zonal/context.yaml` in the working directory, or the one in the home directory. Paths in it are relative to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from shared.commands.failure import CommandFailed
from shared.model.document import Malformed, plain, read
from shared.process.exit_code import ExitCode

DEFAULT_API = "http://127.0.0.1:5681"
CONTEXT_FILE = Path(".zonal", "context.yaml")


class ZoneContext(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one zone is. `store` is its nats-server's JetStream directory; "" where it is not on this machine."""

    api: str = ""
    ads: str = ""
    token_file: str = ""
    store: str = ""


class Context(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the system is. `store` is the hub's JetStream directory, for commands that read the log alone; `keys` holds
    the public keys that logs are verified with.
    """

    api: str = DEFAULT_API
    token_file: str = ""
    ca_file: str = ""
    store: str = ""
    keys: str = ""
    zones: dict[str, ZoneContext] = {}


class Target(msgspec.Struct, frozen=True):
    """One API and the token to show to it; "" for none."""

    api: str
    token: str


def load(environment: Mapping[str, str], directory: Path, home: Path | None) -> Context:
    """The context of a command that runs in `directory`. Raises CommandFailed when its file is broken."""
    named = environment.get("ZONAL_CONTEXT")
    places = [Path(named)] if named else [directory / CONTEXT_FILE, *([home / CONTEXT_FILE] if home else [])]
    file = next((place for place in places if place.is_file()), None)
    if named and file is None:
        raise CommandFailed(f"ZONAL_CONTEXT names {named}, which is no file", ExitCode.USAGE)
    found = _read(file) if file else Context()
    if api := environment.get("ZONAL_API"):
        found = msgspec.structs.replace(found, api=api)
    if token_file := environment.get("ZONAL_TOKEN_FILE"):
        found = msgspec.structs.replace(found, token_file=token_file)
    return found


def target(context: Context, *, api: str | None, token_file: str | None, zone: str | None) -> Target:
    """The API to call: global's, or the one of `zone`. Flags win. Raises CommandFailed."""
    place, tokens = context.api, context.token_file
    if zone is not None and api is None:
        known = context.zones.get(zone)
        if known is None or not known.api:
            names = ", ".join(sorted(context.zones)) or "none"
            raise CommandFailed(
                f'the context has no zone "{zone}" (known: {names}); give --api with its address', ExitCode.USAGE
            )
        place, tokens = known.api, known.token_file or tokens
    tokens = token_file or tokens
    return Target((api or place).rstrip("/"), _token(Path(tokens)) if tokens else "")


def _token(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError as error:
        raise CommandFailed(f"cannot read the token file {file}: {error.strerror}", ExitCode.USAGE) from None


def _read(file: Path) -> Context:
    try:
        documents = [plain(node) for node in read(file.read_text())]
        found = msgspec.convert(documents[0] if documents else {}, Context)
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror}", ExitCode.USAGE) from None
    except Malformed as error:
        raise CommandFailed(f"{file}:{error}", ExitCode.USAGE) from None
    except msgspec.ValidationError as error:
        raise CommandFailed(f"{file}: {error}", ExitCode.USAGE) from None

    def below(path: str) -> str:
        return str(file.parent / path) if path else ""

    zones = {
        name: msgspec.structs.replace(zone, token_file=below(zone.token_file), store=below(zone.store))
        for name, zone in found.zones.items()
    }
    # Where `zonal init` puts the hub's store and global's keys beside the context.
    hub_store, hub_keys = file.parent / "global" / "nats", file.parent / "global" / "keys"
    return msgspec.structs.replace(
        found,
        token_file=below(found.token_file),
        ca_file=below(found.ca_file),
        store=below(found.store) or (str(hub_store) if hub_store.is_dir() else ""),
        keys=below(found.keys) or (str(hub_keys) if hub_keys.is_dir() else ""),
        zones=zones,
    )
