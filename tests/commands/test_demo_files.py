"""What the demo writes for the user to look at is for the user alone."""

from __future__ import annotations

from pathlib import Path

from shared.demo.system import System


def test_manifests_with_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    """The demo's manifest holds a private key: mode 0600, also where an earlier run left it open."""
    system = System(tmp_path, 25900)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "everything.yaml").touch(mode=0o644)
    assert system.write("everything.yaml", "type: Secret").stat().st_mode & 0o777 == 0o600
    assert system.write("east-dataplane.yaml", "type: Dataplane", public=True).stat().st_mode & 0o777 == 0o644
