"""What the demo writes for the user to look at is for the user alone."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from shared.commands.failure import CommandFailed
from shared.commands.output import Output
from shared.demo import run
from shared.demo.narration import Narrator, StepFailed
from shared.demo.placement import SYSTEM_PORTS, ZONES, Loopback
from shared.demo.system import System
from shared.keys.init import init
from shared.keys.ports import HIGHEST
from shared.process.exit_code import ExitCode


def test_manifests_with_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    """The demo's manifest holds a private key: mode 0600, also where an earlier run left it open."""
    system = System(tmp_path, 25900)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "everything.yaml").touch(mode=0o644)
    assert system.write("everything.yaml", "type: Secret").stat().st_mode & 0o777 == 0o600
    assert system.write("east-dataplane.yaml", "type: Dataplane", public=True).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("output", "read"), [("json", msgspec.json.decode), ("yaml", yaml.safe_load)])
def test_steps_are_documents(capsys: pytest.CaptureFixture[str], output: Output, read: Callable[[str], Any]) -> None:
    """One line of JSON or one document of YAML per step and nothing else, also for the step that fails."""
    narrator = Narrator(output)
    with narrator.step("first") as step:
        step.check("one: 1", {"seen": 1}, ok=True)
        step.say("aside")
        step.show("verbatim")
    with pytest.raises(StepFailed), narrator.step("second") as step:
        step.check("two", "three\nfour", ok=False)
    out = capsys.readouterr().out
    parts = out.splitlines() if output == "json" else out.split("---\n")[1:]
    first, second = (read(part) for part in parts)
    assert (first["step"], first["ok"], first["expected"], first["seen"]) == ("first", True, "one: 1", "{'seen': 1}")
    assert (second["step"], second["ok"], second["expected"], second["seen"]) == ("second", False, "two", "three\nfour")
    assert list(first) == ["step", "ok", "ms", "expected", "seen"]


def test_systems_that_can_run_side_by_side_share_no_vip() -> None:
    """No two base ports whose plans do not overlap give a zone the same range, and all lie within 127/8."""
    ranges: dict[IPv4Network, int] = {}
    for base in range(1, HIGHEST - SYSTEM_PORTS, SYSTEM_PORTS // 2):
        place = Loopback(base)
        for zone in ZONES:
            for one in (place.vip_range(zone), place.legacy_range(zone)):
                assert one.subnet_of(IPv4Network("127.0.0.0/8"))
                assert base - ranges.setdefault(one, base) < SYSTEM_PORTS
    assert len(ranges) > HIGHEST // SYSTEM_PORTS


@pytest.mark.parametrize("command", [run.run, run.up])
def test_a_base_port_without_room_is_a_usage_error(tmp_path: Path, command: Callable[..., int]) -> None:
    """It is told in a sentence, and nothing is made."""
    with pytest.raises(CommandFailed, match="port 65549 is out of range") as refused:
        command(base_port=65530, directory=tmp_path / "d")
    assert refused.value.code == ExitCode.USAGE
    assert not (tmp_path / "d").exists()


def test_a_directory_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    """As where the disk is read-only."""
    (tmp_path / "file").touch()
    with pytest.raises(CommandFailed, match=r"cannot write to .*file/d: Not a directory"):
        run.up(base_port=25900, directory=tmp_path / "file" / "d")


def test_a_deployment_of_others_is_not_taken_for_the_demos(tmp_path: Path) -> None:
    """One with other zones, or from another base port than the one asked for, is left alone."""
    init(tmp_path / "theirs", ("a", *ZONES), 25900)
    with pytest.raises(CommandFailed, match="zones a, east, west") as refused:
        run.up(base_port=None, directory=tmp_path / "theirs")
    assert refused.value.code == ExitCode.REFUSED
    init(tmp_path / "ours", ZONES, 25900)
    with pytest.raises(CommandFailed, match="base port 25900"):
        run.up(base_port=25800, directory=tmp_path / "ours")
