"""`zonal init`: the layout, its modes, and what a second run does."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from shared.commands import context
from shared.keys import deployment, init
from shared.keys.files import KeyFileError
from shared.keys.init import InitRefused
from shared.process.exit_code import ExitCode
from shared.process.settings import GlobalSettings, ZoneSettings
from shared.process.settings import load as load_settings

SECRET_NAMES = (".key", ".seed", ".token", "leaf-nkey.conf")


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> deployment.Deployment:
    """A deployment of two zones that tests only read."""
    return init.init(tmp_path_factory.mktemp("deployment") / "d", ("east", "west"), 21000)


def all_files(directory: Path) -> dict[str, bytes]:
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def test_secrets_are_the_owners_alone(laid: deployment.Deployment) -> None:
    """Every file with a key, a seed or a token has mode 0600, and no other file holds one."""
    assert stat.S_IMODE(laid.directory.stat().st_mode) == 0o700
    seeds = [path.read_bytes().strip() for path in laid.directory.rglob("*.seed")]
    assert len(seeds) == 5
    for path in laid.directory.rglob("*"):
        if path.is_dir():
            continue
        secret = path.name.endswith(SECRET_NAMES)
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if secret else 0o644), path
        if not secret:
            text = path.read_bytes()
            assert b"PRIVATE" not in text, path
            assert not any(seed in text for seed in seeds), path


def test_each_process_holds_its_own_keys_and_no_others(laid: deployment.Deployment) -> None:
    """Only global can issue tokens; a zone can unseal as itself alone; everybody can verify and seal for all."""
    for name in ("global", "east", "west"):
        keys = laid.keys(name)
        assert set(keys.readers()) == {"global", "east", "west"}
        assert [path.name for path in keys.path.glob("*.seal.key")] == [f"{name}.seal.key"]
        sealed, wraps = keys.sealer().seal(b"for all")
        by_reader = {sealed.kid: {wrap.recipient: wrap.wrapped for wrap in wraps}}
        for reader in ("global", "east", "west"):
            assert laid.keys(reader).keyring().unseal(sealed, by_reader) == b"for all"
        who = keys.token_verifier().authenticate(laid.admin_token.read_text())
        assert who is not None
        assert (who.subject, who.roles) == ("admin", ("admin",))
    token = laid.keys("global").token_issuer().dataplane_token("default", name="web", zone="east")
    assert laid.keys("east").token_verifier().check(token).name == "web"
    with pytest.raises(KeyFileError, match="issued on global"):
        laid.keys("east").token_issuer()


def test_settings_are_those_the_processes_read(laid: deployment.Deployment) -> None:
    """The settings files load into the processes' own types, and name files that exist."""
    hub = load_settings(
        GlobalSettings, text=laid.global_settings.read_text(), file=str(laid.global_settings), environment={}
    )
    assert (hub.api_port, hub.zones) == (21000, ("east", "west"))
    east = load_settings(
        ZoneSettings, text=laid.zone_settings("east").read_text(), file=str(laid.zone_settings("east")), environment={}
    )
    assert (east.name, east.api_port, east.ads_port) == ("east", 21020, 21021)
    for settings in (hub, east):
        for path in (settings.nats_credentials, settings.nats_ca, settings.keys_dir, settings.data_dir):
            assert Path(path).exists()


def test_the_context_points_the_command_line(laid: deployment.Deployment) -> None:
    """The command line reads the context: APIs, token file, stores."""
    found = context.load(laid.environment(), Path("/nowhere"), None)
    assert found.api == "http://127.0.0.1:21000"
    assert found.zones["west"].api == "http://127.0.0.1:21040"
    assert Path(found.token_file) == laid.admin_token
    assert Path(found.store) == laid.hub_store
    assert Path(found.zones["west"].store) == laid.leaf_store("west")
    assert laid.environment()["ZONAL_CONTEXT"] == str(laid.context)


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    """The same call again writes no file."""
    first = init.init(tmp_path / "d", ("east",))
    before = all_files(first.directory)
    assert init.init(tmp_path / "d", ("east",)).made == ()
    assert init.init(tmp_path / "d", ()).made == ()
    assert all_files(first.directory) == before


def test_a_second_run_adds_zones_only(tmp_path: Path) -> None:
    """More zones get keys and ports of their own; nothing that was there is lost, no port moves."""
    first = init.init(tmp_path / "d", ("west",), 21000, vip_cidrs={"west": "127.101.0.0/16"})
    before = all_files(first.directory)
    settings = first.zone_settings("west")
    settings.write_text(settings.read_text() + "log_level: debug\n".replace("log_level: debug\n", "# mine\n"))
    second = init.init(tmp_path / "d", ("east",))
    after = all_files(second.directory)
    assert second.plan.zones == ("west", "east")
    assert second.zone_ports("west") == first.zone_ports("west")
    assert set(before) <= set(after)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "deployment.yaml", "context.yaml", "global/nats.conf", "global/settings.yaml", "zones/west/settings.yaml"
    }  # fmt: skip
    assert settings.read_text().endswith("# mine\n")
    assert set(second.keys("west").readers()) == {"global", "east", "west"}


def test_an_interrupted_run_is_taken_up(tmp_path: Path) -> None:
    """Whatever file is missing after a crash is made again by the next run, keys that others rely on excepted."""
    laid = init.init(tmp_path / "d", ("east",))
    for path in (laid.context, laid.zone_settings("east"), laid.keys("east").ads_files[1], laid.admin_token):
        path.unlink()
    again = init.init(tmp_path / "d", ("east",))
    assert {laid.context, laid.zone_settings("east"), *laid.keys("east").ads_files, laid.admin_token} == set(again.made)
    (laid.keys("east").path / "east.seal.key").unlink()
    with pytest.raises(InitRefused, match="put it back"):
        init.init(tmp_path / "d", ("east",))


def test_certificates_are_renewed_when_due(tmp_path: Path) -> None:
    """A run after two thirds of their life gives servers new certificates under the same authority."""
    laid = init.init(tmp_path / "d", ("east",))
    later = init.init(tmp_path / "d", ("east",), now=datetime.now(UTC) + timedelta(days=600))
    east, hub = laid.keys("east"), laid.keys("global")
    assert set(later.made) == {*east.ads_files, *east.nats_files, *hub.nats_files}


@pytest.mark.parametrize("name", ["global", "East", "a.b", "-x", "", "x" * 64, "../up"])
def test_names_that_cannot_be_zones_are_refused(tmp_path: Path, name: str) -> None:
    """A zone's name is an RFC 1035 label and not "global"; nothing is written otherwise."""
    with pytest.raises(InitRefused, match="cannot be a zone"):
        init.init(tmp_path / "d", ("east", name))
    assert not (tmp_path / "d").exists()


def test_nothing_of_somebody_elses_is_overwritten(tmp_path: Path) -> None:
    """A directory with such files that is no deployment is refused, and stays as it was."""
    (tmp_path / "ca.pem").write_text("mine")
    with pytest.raises(InitRefused, match="nothing was overwritten"):
        init.init(tmp_path, ("east",))
    assert all_files(tmp_path) == {"ca.pem": b"mine"}


def test_the_base_port_is_fixed(tmp_path: Path) -> None:
    """A second run with another base port is refused: running processes would not move."""
    init.init(tmp_path / "d", ("east",), 21000)
    with pytest.raises(InitRefused, match="21000"):
        init.init(tmp_path / "d", ("east",), 22000)
    with pytest.raises(InitRefused, match="lower base"):
        init.init(tmp_path / "e", ("east",), 65530)
    with pytest.raises(InitRefused, match="at least one zone"):
        init.init(tmp_path / "f", ())


def test_the_command_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`zonal init` prints what it made and what comes next, as text or one JSON document; refusals exit 3."""
    assert init.run(("east",), tmp_path / "d", output="json") == ExitCode.OK
    facts = json.loads(capsys.readouterr().out)
    assert "admin.token" in facts["made"]
    assert any(command.startswith("zonal zone --config ") for command in facts["run"])
    assert init.run(("west",), tmp_path / "d") == ExitCode.OK
    told = capsys.readouterr().out
    assert "restart its nats-server" in told
    assert "zonal global --config" in told
    assert (tmp_path / "d" / "admin.token").read_text() not in told
    assert init.run(("global",), tmp_path / "d") == ExitCode.REFUSED
    assert "cannot be a zone" in capsys.readouterr().err


def test_processes_may_live_at_other_addresses(tmp_path: Path) -> None:
    """With `hosts`, each process listens and is dialled there, under a certificate for that address; none moves."""
    hosts = {"global": "10.65.0.1", "east": "10.65.1.2"}
    laid = init.init(tmp_path / "d", ("east", "west"), 21000, hosts=hosts)
    east = yaml.safe_load(laid.zone_settings("east").read_text())
    assert (east["api_host"], east["ads_host"]) == ("10.65.1.2", "10.65.1.2")
    assert east["nats_url"] == f"tls://10.65.1.2:{laid.zone_ports('east').nats}"
    assert f"tls://10.65.0.1:{laid.ports.nats_leaf}" in laid.leaf_config("east").read_text()
    assert 'host: "10.65.0.1"' in laid.hub_config.read_text()
    found = context.load(laid.environment(), Path("/nowhere"), None)
    assert (found.api, found.zones["west"].api) == ("http://10.65.0.1:21000", "http://127.0.0.1:21040")
    for name, at in (("global", "10.65.0.1"), ("east", "10.65.1.2"), ("west", "127.0.0.1")):
        certificate = x509.load_pem_x509_certificate(laid.keys(name).nats_files[0].read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert IPv4Address(at) in names.get_values_for_type(x509.IPAddress)
    with pytest.raises(InitRefused, match=r"not at 10\.65\.9\.9"):
        init.init(tmp_path / "d", (), hosts={"east": "10.65.9.9"})
