"""`zonal migrate externalservice`: the MeshExternalServices and HostnameGenerators that replace legacy services."""

from __future__ import annotations

import sys
from typing import Annotated, Any
from urllib.parse import quote

from cyclopts import Parameter

from shared.commands import connect, output
from shared.commands.connect import Api, TokenFile
from shared.commands.failure import CommandFailed
from shared.commands.manifests import posted
from shared.commands.whatif import DIFF, dry_client, told
from shared.model import codec, manifest
from shared.model.external_service import ExternalService
from shared.model.resource import Resource
from shared.model.successor import Succession, succession
from shared.process.exit_code import ExitCode

_FIELDS = ("type", "mesh", "name", "tags", "networking")
_NO_KEY = "unknown"
"""Stands in for an inline key, which is never shown."""


def externalservice(
    name: Annotated[str | None, Parameter(help="One ExternalService; all of its kuma.io/service are replaced.")] = None,
    *,
    mesh: Annotated[str, Parameter(name=["--mesh", "-m"], help="Mesh of the ExternalServices.")] = "default",
    diff: Annotated[bool, Parameter(negative="", help="Say what applying it would change for every proxy.")] = False,
    api: Api = None,
    token_file: TokenFile = None,
) -> int:
    """Print what replaces ExternalServices, as YAML with remarks; nothing is written."""
    client = connect.client(api, token_file, None)
    items = client.pages(f"/meshes/{quote(mesh, safe='')}/externalservices")
    services: dict[str, list[ExternalService]] = {}
    for one in map(_read, items):
        services.setdefault(one.service, []).append(one)
    if name is not None:
        services = {key: found for key, found in services.items() if any(one.name == name for one in found)}
        if not services:
            raise CommandFailed(f"there is no ExternalService {name} in mesh {mesh}", ExitCode.REFUSED)
    texts = [_text(key, succession(members)) for key, members in sorted(services.items())]
    text = "".join(texts)
    sys.stdout.write(text)
    if diff and text:
        documents = manifest.parse(text, "<migrate>").documents
        output.say("What applying this would change:")
        return told(posted(dry_client(api, token_file, None), f"/apply?{DIFF}", documents), "table")
    return ExitCode.OK


def _read(item: dict[str, Any]) -> ExternalService:
    fields = {field: item[field] for field in _FIELDS if field in item}
    key = fields.get("networking", {}).get("tls", {}).get("clientKey")
    if key is not None and not key.get("secret"):
        key["inlineString"] = _NO_KEY
    found: ExternalService = codec.convert(fields, Resource)
    return found


def _text(service: str, found: Succession) -> str:
    import yaml

    remarks = "".join(f"# {one}\n" for one in (f"kuma.io/service: {service}", *found.notes))
    plain = [codec.to_plain(one) for one in (*found.services, *found.generators)]
    return remarks + "".join("---\n" + yaml.safe_dump(one, sort_keys=False, allow_unicode=True) for one in plain)
