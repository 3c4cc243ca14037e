"""Configurations of hub and zones, as text."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from shared.nats import nkeys
from shared.nats.config import HubConfig, LeafConfig, TlsFiles, hub_text, imports_of, leaf_nkey_text, leaf_text

TLS = TlsFiles(ca="/etc/ca.pem", cert="/etc/server.pem", key="/etc/server.key")
HUB = HubConfig(
    host="0.0.0.0",
    port=4222,
    leaf_host="0.0.0.0",
    leaf_port=7422,
    store_dir="/var/hub",
    global_nkey="UGLOBAL",
    zones={"west": "UWEST", "east": "UEAST"},
    tls=TLS,
)
LEAF = LeafConfig(
    zone="west",
    host="127.0.0.1",
    port=4223,
    hub_leaf_host="hub.example",
    hub_leaf_port=7422,
    store_dir="/var/west",
    client_nkey="UCLIENT",
    tls=TLS,
)


@pytest.mark.parametrize("text", [hub_text(HUB), leaf_text(LEAF)])
def test_what_every_server_must_have(text: str) -> None:
    """Acknowledged means on the disk, a black hole is seen within ten seconds, and clients come over TLS."""
    assert "sync_interval: always" in text
    assert 'ping_interval: "5s"' in text
    assert "ping_max: 2" in text
    assert 'cert_file: "/etc/server.pem"' in text


def test_hub_links_are_mutual_and_not_advertised() -> None:
    """Leaf nodes show a certificate and learn no way around the configured one."""
    leafnodes = hub_text(HUB).split("leafnodes", 1)[1]
    assert "no_advertise: true" in leafnodes
    assert "verify: true" in leafnodes


def test_leaf_reconnects_each_second_in_its_own_domain() -> None:
    """The link heals within a second, and the zone's JetStream is not the hub's."""
    text = leaf_text(LEAF)
    assert 'reconnect: "1s"' in text
    assert 'domain: "west"' in text
    assert 'domain: "hub"' in hub_text(HUB)
    assert 'urls: [ "tls://hub.example:7422" ]' in text


def test_no_private_key_in_a_configuration() -> None:
    """The leaf's seed stands in a file of its own, which the configuration includes."""
    key = nkeys.generate()
    assert key.seed in leaf_nkey_text(key.seed)
    assert 'include "./leaf-nkey.conf"' in leaf_text(LEAF)
    assert not re.search(r'"S[A-Z2-7]{20,}', hub_text(HUB) + leaf_text(LEAF))


def test_each_subject_is_exported_once_and_to_nobody_else() -> None:
    """Of two exports for one subject the server keeps one; and only the shared log is exported to several zones."""
    exports = re.findall(r"\{ service: \"([^\"]+)\", accounts: (\[[^]]*\])", hub_text(HUB))
    subjects = [subject for subject, _ in exports]
    assert len(subjects) == len(set(subjects))
    for subject, accounts in exports:
        shared = subject in ("$JS.API.STREAM.INFO.EV", "$JS.API.DIRECT.GET.EV")
        expected = ["zone-east", "zone-west"] if shared else [f"zone-{'east' if 'east' in subject else 'west'}"]
        assert msgspec.json.decode(accounts) == expected


def test_a_zone_may_do_only_this_on_the_hub() -> None:
    """Read the log, its own streams, its own consumer; write its own subjects. Nothing creates, purges or deletes."""
    assert [subject for subject, _, _ in imports_of("west")] == [
        "$JS.API.STREAM.INFO.EV",
        "$JS.API.DIRECT.GET.EV",
        "$JS.API.CONSUMER.RESET.EV.zone-west",
        "$JS.API.CONSUMER.MSG.NEXT.EV.zone-west",
        "$JS.API.STREAM.INFO.Z_west",
        "$JS.API.DIRECT.GET.Z_west",
        "$JS.API.STREAM.INFO.S_west",
        "$JS.API.DIRECT.GET.S_west",
        "$JS.API.STREAM.INFO.R_west",
        "$JS.API.DIRECT.GET.R_west",
        "zone.v1.west.>",
        "status.v1.west.>",
        "record.v1.west.>",
    ]
    assert all(name.startswith("hub.") for _, name, _ in imports_of("west"))


def test_shipped_examples_are_what_the_code_writes() -> None:
    """`deploy/nats` shows the configurations for a hub with two zones, as `zonal init` writes them."""
    folder = Path(__file__).parents[2] / "deploy" / "nats"
    assert (folder / "hub.conf").read_text() == hub_text(HUB)
    assert (folder / "zone.conf").read_text() == leaf_text(LEAF)
