"""A data directory belongs to one process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.process.held import AlreadyHeld, held


def test_a_directory_is_held_by_one(tmp_path: Path) -> None:
    """A second holder of the same name is refused; another name, and the next one after the first, are not."""
    with held(tmp_path / "data", "zone-east"):
        with pytest.raises(AlreadyHeld, match="another zone-east runs here"), held(tmp_path / "data", "zone-east"):
            pytest.fail("held twice")
        with held(tmp_path / "data", "zone-west"):
            pass
    with held(tmp_path / "data", "zone-east"):
        pass


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """The message says which setting and which path."""
    (tmp_path / "file").touch()
    with pytest.raises(AlreadyHeld, match=r"data_dir: .*file"), held(tmp_path / "file", "zone-east"):
        pytest.fail("held a file")
