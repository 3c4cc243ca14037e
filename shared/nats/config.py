"""Configurations of the hub's and the zones' nats-servers, as text. Pure: the caller writes files and makes keys.

Isolation rests on accounts, not on subject permissions (a reply subject escapes those): each zone has an account of its
own on the hub, which imports from GLOBAL exactly the services of `imports_of`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from shared.nats.topology import (
    EVENTS,
    GLOBAL_ACCOUNT,
    HUB_API,
    HUB_DOMAIN,
    HUB_PREFIX,
    ZONE_ACCOUNT,
    hub_account,
    record_prefix,
    record_stream_name,
    status_prefix,
    status_stream_name,
    zone_reader,
    zone_stream,
    zone_subjects,
)

API = "$JS.API"
OWN_SUBJECTS = ("mesh.v1.>", "zone.v1.>", "status.v1.>", "record.v1.>")
LEAF_NKEY_FILE = "leaf-nkey.conf"


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of PEM files: the CA that peers are verified with, the own certificate (chain) and its key."""

    ca: str
    cert: str
    key: str


class HubConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's server. Keys are public nkeys (U…); `zones` maps zone name to the public nkey of its leaf link.

    tls serves clients and, with the peer's certificate demanded, leaf nodes; None means plaintext (tests only).
    """

    host: str
    port: int
    leaf_host: str
    leaf_port: int
    store_dir: str
    global_nkey: str
    zones: Mapping[str, str]
    tls: TlsFiles | None
    server_name: str = "hub"


class LeafConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A zone's server. client_nkey: public nkey of the zone control plane.

    The leaf's own nkey seed is not part of the text: it stands in the file `leaf_nkey_file` (mode 0600, content by
    `leaf_nkey_text`), which the server includes from the directory of this configuration.
    """

    zone: str
    host: str
    port: int
    hub_leaf_host: str
    hub_leaf_port: int
    store_dir: str
    client_nkey: str
    tls: TlsFiles | None
    leaf_nkey_file: str = LEAF_NKEY_FILE


def imports_of(zone: str) -> tuple[tuple[str, str, bool], ...]:
    """What a zone may call on the hub: (subject there, name here, whether many replies come)."""
    reader, streams = zone_reader(zone), (zone_stream(zone), status_stream_name(zone), record_stream_name(zone))
    api = [
        (f"STREAM.INFO.{EVENTS}", False),
        (f"DIRECT.GET.{EVENTS}", True),
        (f"CONSUMER.RESET.{EVENTS}.{reader}", False),
        (f"CONSUMER.MSG.NEXT.{EVENTS}.{reader}", True),
        *(call for own in streams for call in ((f"STREAM.INFO.{own}", False), (f"DIRECT.GET.{own}", True))),
    ]
    publish = (zone_subjects(zone), f"{status_prefix(zone)}>", f"{record_prefix(zone)}>")
    return (
        *((f"{API}.{call}", f"{HUB_API}.{call}", many) for call, many in api),
        *((subject, HUB_PREFIX + subject, False) for subject in publish),
    )


def hub_text(config: HubConfig) -> str:
    """The hub's configuration file."""
    accounts = [
        f"  {GLOBAL_ACCOUNT} {{",
        "    jetstream: enabled",
        f"    users: [ {{ nkey: {_quoted(config.global_nkey)} }} ]",
        "    exports: [",
        *_exports(sorted(config.zones)),
        "    ]",
        "  }",
    ]
    for zone, nkey in sorted(config.zones.items()):
        accounts += [
            f"  {_quoted(hub_account(zone))} {{",
            f"    users: [ {{ nkey: {_quoted(nkey)} }} ]",
            "    imports: [",
            *(_import(subject, to) for subject, to, _ in imports_of(zone)),
            "    ]",
            "  }",
        ]
    return _lines(
        *_head(config.server_name, config.host, config.port, HUB_DOMAIN, config.store_dir),
        *_tls(config.tls, verify=False),
        "accounts {",
        *accounts,
        "}",
        "leafnodes {",
        f"  host: {_quoted(config.leaf_host)}",
        f"  port: {config.leaf_port}",
        "  no_advertise: true",
        *(f"  {line}" for line in _tls(config.tls, verify=True)),
        "}",
    )


def leaf_text(config: LeafConfig) -> str:
    """A zone's configuration file."""
    scheme = "nats-leaf" if config.tls is None else "tls"
    url = f"{scheme}://{config.hub_leaf_host}:{config.hub_leaf_port}"
    return _lines(
        *_head(f"zone-{config.zone}", config.host, config.port, config.zone, config.store_dir),
        *_tls(config.tls, verify=False),
        "accounts {",
        f"  {ZONE_ACCOUNT} {{",
        "    jetstream: enabled",
        f"    users: [ {{ nkey: {_quoted(config.client_nkey)} }} ]",
        "  }",
        "}",
        "leafnodes {",
        '  reconnect: "1s"',
        "  remotes: [",
        "    {",
        f"      urls: [ {_quoted(url)} ]",
        f"      account: {ZONE_ACCOUNT}",
        # Nothing imports these on the hub; refused here too, so that a mistake there leaks nothing.
        f"      deny_exports: [ {', '.join(map(_quoted, OWN_SUBJECTS))} ]",
        f"      include {_quoted('./' + config.leaf_nkey_file)}",
        *(f"      {line}" for line in _tls(config.tls, verify=None)),
        "    }",
        "  ]",
        "}",
    )


def leaf_nkey_text(seed: str) -> str:
    """Content of the included file with the leaf's seed. Write it with mode 0600."""
    return f"nkey: {_quoted(seed)}\n"


def scratch_text(host: str, port: int, store_dir: str) -> str:
    """A server without auth on a copied store: for reading a log after the fact."""
    return _lines(
        'server_name: "scratch"',
        f"host: {_quoted(host)}",
        f"port: {port}",
        f"jetstream {{ store_dir: {_quoted(store_dir)} }}",
    )


def _head(name: str, host: str, port: int, domain: str, store_dir: str) -> Sequence[str]:
    return (
        "# Written by zonal; changes are overwritten.",
        f"server_name: {_quoted(name)}",
        f"host: {_quoted(host)}",
        f"port: {port}",
        'ping_interval: "5s"',
        "ping_max: 2",
        "max_payload: 8MB",
        "jetstream {",
        f"  domain: {_quoted(domain)}",
        f"  store_dir: {_quoted(store_dir)}",
        # Anything else loses acknowledged events with the power.
        "  sync_interval: always",
        "}",
    )


def _tls(files: TlsFiles | None, *, verify: bool | None) -> Sequence[str]:
    if files is None:
        return ()
    lines = ["tls {", f"  ca_file: {_quoted(files.ca)}", f"  cert_file: {_quoted(files.cert)}"]
    lines.append(f"  key_file: {_quoted(files.key)}")
    if verify is not None:
        lines.append(f"  verify: {str(verify).lower()}")
    return (*lines, "}")


def _exports(zones: Sequence[str]) -> Iterator[str]:
    # One export per subject, naming all accounts that may import it: of two for one subject the server keeps one.
    importers: dict[tuple[str, bool], list[str]] = {}
    for zone in zones:
        for subject, _, many in imports_of(zone):
            importers.setdefault((subject, many), []).append(hub_account(zone))
    for (subject, many), accounts in importers.items():
        reply = ", response_type: stream" if many else ""
        yield f"      {{ service: {_quoted(subject)}, accounts: {json.dumps(accounts)}{reply} }}"


def _import(subject: str, to: str) -> str:
    source = f"{{ account: {GLOBAL_ACCOUNT}, subject: {_quoted(subject)} }}"
    return f"      {{ service: {source}, to: {_quoted(to)} }}"


def _quoted(text: str) -> str:
    return json.dumps(text)


def _lines(*lines: str) -> str:
    return "\n".join(lines) + "\n"
