"""Golden multi-zone scenarios: a folder a human can read. ZONAL_UPDATE_GOLDEN=1 writes what is played now."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.play import Scenario

CASES = sorted(path.parent for path in Path(__file__).parent.glob("*/events.yaml"))


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_zones_see_what_the_folder_says(folder: Path) -> None:
    """Every zone's view, conditions and log, and every proxy's resources with their causes, are as written down."""
    files = Scenario(folder).golden()
    if os.environ.get("ZONAL_UPDATE_GOLDEN") == "1":
        for path in folder.glob("*.*.yaml"):
            path.unlink()
        for name, text in files.items():
            (folder / name).write_text(text)
    written = {path.name: path.read_text() for path in folder.glob("*.*.yaml")}
    assert sorted(written) == sorted(files)
    for name, text in files.items():
        assert written[name] == text, f"{folder.name}/{name} differs; if it should, run with ZONAL_UPDATE_GOLDEN=1"
