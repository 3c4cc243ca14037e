"""The command line as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shared import VERSION, cli
from shared.keys.files import write_private
from shared.keys.tokens import TokenVerifier, create_signing_key, public_key_of
from shared.process.settings import GlobalSettings, ProxySettings, ZoneSettings
from tests.commands.conftest import Zonal


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Puts a function that remembers its arguments where a command finds its process."""

    def put(module: str, name: str = "run") -> list[Any]:
        calls: list[Any] = []

        def run(*arguments: Any, **options: Any) -> int:
            calls.append((arguments, options) if options else arguments[0] if len(arguments) == 1 else arguments)
            return 0

        made = ModuleType(module)
        setattr(made, name, run)
        monkeypatch.setitem(sys.modules, module, made)
        return calls

    return put


def test_help_names_every_command(zonal: Zonal) -> None:
    """`zonal --help` and `zonal proxy --help` list what there is; each command has its own help."""
    top = zonal("--help")
    assert top.code == 0
    assert all(name in top.out for name, _, _ in cli.COMMANDS)
    assert all(name in zonal("proxy", "--help").out for name, _, _ in cli.PROXY_COMMANDS)
    for name, _, _ in cli.COMMANDS:
        shown = zonal(name, "--help")
        assert (shown.code, shown.err) == (0, ""), name


@pytest.mark.parametrize("line", [["nope"], ["get"], ["get", "mes", "--nope"], ["apply"], ["events", "--limit", "x"]])
def test_a_line_that_cannot_be_read_is_a_usage_error(zonal: Zonal, line: list[str]) -> None:
    """Unknown commands, missing arguments and values of the wrong type exit with 2, told on stderr."""
    done = zonal(*line)
    assert (done.code, done.out) == (2, "")
    assert done.err


_MADE = ("--type=server", "--hostname=a.test", "--key-file=-", "--cert-file=-")


@pytest.mark.parametrize("line", [["version"], ["generate", "tls-certificate", *_MADE]])
def test_who_has_seen_enough_is_not_told_of_it(line: list[str]) -> None:
    """A reader that closes the pipe, like `head`, leads to no trace on stderr, whenever it closes it."""
    end, start = os.pipe()
    os.close(end)
    command = [sys.executable, "-m", "shared.cli", *line]
    done = subprocess.run(command, stdout=start, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    os.close(start)
    assert "Error" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.returncode == 0


def test_the_version_is_the_projects(zonal: Zonal) -> None:
    """`zonal version`, `--version` and pyproject.toml agree."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert zonal("version").out == f"zonal {VERSION}\n"
    assert zonal("--version").out.strip() == VERSION


def test_a_process_gets_settings_from_every_source(
    zonal: Zonal, stand_in: Callable[..., list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`zonal zone` merges file, environment and flags, and runs the zone with the result."""
    calls = stand_in("zone_cp.app")
    file = tmp_path / "zone.yaml"
    file.write_text("name: east\napi_port: 1\nads_port: 2\n")
    monkeypatch.setenv("ZONAL_ADS_PORT", "3")
    done = zonal("zone", "--config", str(file), "--api-port", "4", "--allowed-addresses", "127.0.0.0/8,10.0.0.0/8")
    assert (done.code, done.err) == (0, "")
    assert calls == [ZoneSettings(name="east", api_port=4, ads_port=3, allowed_addresses=("127.0.0.0/8", "10.0.0.0/8"))]


def test_wrong_settings_are_refused_by_path(zonal: Zonal, stand_in: Callable[..., list[Any]], tmp_path: Path) -> None:
    """A wrong key in the file exits with 3 and its place; a wrong flag with 2; nothing runs."""
    calls = stand_in("global_cp.app")
    file = tmp_path / "global.yaml"
    file.write_text("api_prt: 1\n")
    done = zonal("global", "--config", str(file))
    assert done.code == 3
    assert done.err.startswith(f"{file}:1:1: api_prt: no such setting")
    assert zonal("global", "--api-port", "many").code == 2
    assert zonal("global", "--config", str(tmp_path / "gone")).code == 2
    assert calls == []
    assert zonal("global").code == 0
    assert calls == [GlobalSettings()]


def test_the_command_of_the_documentation_works(zonal: Zonal, stand_in: Callable[..., list[Any]]) -> None:
    """The flags of the seed's kuma-dp command are taken as they are written there."""
    calls = stand_in("zone_cp.agent.app")
    dataplane = "type: Dataplane\nmesh: default\nname: example\n"
    done = zonal(
        "proxy",
        "sidecar",
        "--cp-address=https://localhost:5678/",
        "--dns-enabled=false",
        "--dataplane-token-file=token-file",
        f"--dataplane={dataplane}",
    )
    assert (done.code, done.err) == (0, "")
    assert calls == [
        ProxySettings(
            kind="sidecar",
            cp_address="https://localhost:5678/",
            dns_enabled=False,
            dataplane_token_file="token-file",
            dataplane=dataplane,
        )
    ]


def test_a_dataplane_may_be_a_file(zonal: Zonal, stand_in: Callable[..., list[Any]], tmp_path: Path) -> None:
    """`--dataplane` with the name of a file means the file."""
    calls = stand_in("zone_cp.agent.app")
    (tmp_path / "egress.yaml").write_text("type: ZoneEgress\n")
    assert zonal("proxy", "egress", "--dataplane", "egress.yaml").code == 0
    assert (calls[0].kind, calls[0].dataplane, calls[0].dataplane_file) == ("egress", "", "egress.yaml")


def test_a_part_that_is_not_built_says_so() -> None:
    """A command whose part this installation lacks exits with 2 and names it."""
    from shared.commands import processes
    from shared.commands.failure import CommandFailed

    with pytest.raises(CommandFailed, match="not built yet"):
        processes.call("shared.nowhere.run:run")


def test_a_token_is_made_for_who_is_named(zonal: Zonal, tmp_path: Path) -> None:
    """By the key that `zonal init` laid out; without one, or with a limit on who may write, none is."""
    keys = tmp_path / "global" / "keys"
    keys.mkdir(parents=True)
    line = ["generate", "user-token", "--name", "ana", "--directory", str(tmp_path), "--mesh", "red", "--zone", "east"]
    assert zonal(*line).code == 1
    signing = create_signing_key()
    write_private(keys / "token-signing-1.key", signing.encode())
    made = zonal(*line, "--valid-for", "30m")
    who = TokenVerifier({"1": public_key_of(signing)}).check(made.out.strip())
    assert (who.subject, who.roles, who.meshes, who.zones) == ("ana", (), ("red",), ("east",))
    assert zonal(*line, "--role", "admin").code == 2
    assert zonal(*line, "--valid-for", "soon").code == 2


def test_tokens_of_proxies_are_bound(zonal: Zonal, tmp_path: Path) -> None:
    """To a name or to the tag of a service: one that anybody of the mesh could be let in by is not made."""
    keys = tmp_path / "global" / "keys"
    keys.mkdir(parents=True)
    signing = create_signing_key()
    write_private(keys / "token-signing-1.key", signing.encode())
    verifier, place = TokenVerifier({"1": public_key_of(signing)}), ["--directory", str(tmp_path)]
    tags = ["--tag", "kuma.io/service=web", "--tag", "kuma.io/service=job", "--tag", "team=a"]
    made = zonal("generate", "dataplane-token", "--mesh", "red", "--zone", "east", *tags, *place)
    who = verifier.check(made.out.strip())
    assert (who.kind, who.mesh, who.name, who.zone) == ("dataplane", "red", "", "east")
    assert dict(who.tags) == {"kuma.io/service": ("web", "job"), "team": ("a",)}
    named = verifier.check(zonal("generate", "dataplane-token", "--name", "web-1", *place).out.strip())
    assert (named.mesh, named.name, dict(named.tags)) == ("default", "web-1", {})
    egress = verifier.check(zonal("generate", "zone-egress-token", "--zone", "east", *place).out.strip())
    assert (egress.kind, egress.zone) == ("egress", "east")
    for wrong in ([], ["--tag", "team=a"], ["--tag", "kuma.io/service"]):
        assert zonal("generate", "dataplane-token", *wrong, *place).code == 2


def test_init_takes_zones_and_ranges(zonal: Zonal, stand_in: Callable[..., list[Any]], tmp_path: Path) -> None:
    """`zonal init` passes on what it was given; a range without a zone is a usage error."""
    calls = stand_in("shared.keys.init")
    line = ["init", "--zone", "east,west", "--zone", "north", "--vip-cidr", "east=127.9.0.0/16", "--base-port", "7000"]
    assert zonal(*line).code == 0
    ((arguments, options),) = calls
    assert arguments == (("east", "west", "north"), Path(".zonal"))
    assert (options["vip_cidrs"], options["base_port"]) == ({"east": "127.9.0.0/16"}, 7000)
    assert zonal("init", "--zone", "east", "--vip-cidr", "127.9.0.0/16").code == 2
