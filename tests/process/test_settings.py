"""Settings: one definition, four sources."""

from __future__ import annotations

import pytest

from shared.process.settings import GlobalSettings, ProxySettings, SettingsRefused, ZoneSettings, load, to_yaml


def test_defaults_need_no_source() -> None:
    """Every process but those with a name of their own starts from defaults alone."""
    assert load(GlobalSettings, environment={}) == GlobalSettings()
    assert GlobalSettings().api_port == 5681


def test_later_sources_win() -> None:
    """Flags beat the environment, which beats the file, which beats defaults."""
    text = "api_port: 1\nlog_level: debug\napi_host: 10.0.0.1\n"
    environment = {"ZONAL_API_PORT": "2", "ZONAL_API_HOST": "10.0.0.2"}
    settings = load(
        GlobalSettings, text=text, file="g.yaml", environment=environment, flags={"api_port": 3, "zones": None}
    )
    assert (settings.api_port, settings.api_host, settings.log_level) == (3, "10.0.0.2", "debug")


def test_kumas_variables_keep_their_names() -> None:
    """The VIP range and the system CA path are set by Kuma's variables; our own name wins over them."""
    kuma = {"KUMA_IPAM_MESH_EXTERNAL_SERVICE_CIDR": "127.9.0.0/16"}
    assert load(ZoneSettings, environment=kuma, flags={"name": "east"}).mesh_external_service_cidr == "127.9.0.0/16"
    both = kuma | {"ZONAL_MESH_EXTERNAL_SERVICE_CIDR": "127.8.0.0/16"}
    assert load(ZoneSettings, environment=both, flags={"name": "east"}).mesh_external_service_cidr == "127.8.0.0/16"
    path = {"KUMA_DATAPLANE_RUNTIME_DYNAMIC_SYSTEM_CA_PATH": "/ca.pem"}
    assert load(ProxySettings, environment=path, flags={"kind": "egress"}).system_ca_path == "/ca.pem"


def test_faults_are_named_by_place_and_path_all_at_once() -> None:
    """A wrong key and wrong values are refused together, each where it was written."""
    text = "name: east\napi_prt: 1\nads_port: many\nallowed_addresses: [10.0.0.0/8, 7]\n"
    with pytest.raises(SettingsRefused) as refused:
        load(
            ZoneSettings,
            text=text,
            file="z.yaml",
            environment={"ZONAL_API_PORT": "70000"},
            flags={"vip_quarantine_seconds": "soon"},
        )
    faults = refused.value.faults
    assert [fault.rpartition(": ")[0] for fault in faults[1:]] == [
        "z.yaml:3:1: ads_port",
        "z.yaml:4:1: allowed_addresses[1]",
        "ZONAL_API_PORT: api_port",
        "--vip-quarantine-seconds: vip_quarantine_seconds",
    ]
    assert faults[0].startswith("z.yaml:2:1: api_prt: no such setting; known are ads_host, ads_port")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a", "z.yaml: settings are one YAML mapping"),
        ("a: [", "z.yaml:2:1: not valid YAML"),
        ("log_level: info", "required: name: give --name, ZONAL_NAME or `name:` in the file"),
        ("name: East", 'name: "East" is no RFC 1035 label'),
        ("name: e\nmesh_external_service_cidr: fd00::/8", "mesh_external_service_cidr: fd00::/8 is not an IPv4 range"),
        ("name: e\nallowed_addresses: [nowhere]", "allowed_addresses[0]: 'nowhere' does not appear"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, reason: str) -> None:
    """A file that is no mapping, a missing name and a range that is none are refused with a reason."""
    with pytest.raises(SettingsRefused) as refused:
        load(ZoneSettings, text=text, file="z.yaml", environment={})
    assert str(refused.value).startswith(reason)


def test_lists_are_written_with_commas_outside_the_file() -> None:
    """`--zones east,west`, `--zones east --zones west` and ZONAL_ZONES=east,west mean the same."""
    east_west = ("east", "west")
    assert load(GlobalSettings, environment={"ZONAL_ZONES": "east, west"}).zones == east_west
    assert load(GlobalSettings, environment={}, flags={"zones": ("east", "west")}).zones == east_west
    assert load(GlobalSettings, environment={}, flags={"zones": ("east,west",)}).zones == east_west


def test_a_written_file_reads_back() -> None:
    """`to_yaml` and `load` are inverse."""
    settings = ZoneSettings(name="east", allowed_addresses=("127.0.0.0/8",), api_port=7)
    assert load(ZoneSettings, text=to_yaml(settings), file="z.yaml", environment={}) == settings
