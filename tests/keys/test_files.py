"""Key files and their modes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.keys import files


def test_private_files_are_the_owners_alone(tmp_path: Path) -> None:
    """A private file has mode 0600, whatever was there before; a public one 0644."""
    secret, public = tmp_path / "a.key", tmp_path / "a.pub"
    secret.touch(mode=0o644)
    files.write_private(secret, "s")
    files.write_public(public, "p")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert files.read_private(secret) == b"s"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_open_key_files_are_refused(tmp_path: Path, mode: int) -> None:
    """A key file that group or world can touch is refused with the command that mends it."""
    path = tmp_path / "seal.key"
    files.write_private(path, files.private_pem(X25519PrivateKey.generate()))
    path.chmod(mode)
    with pytest.raises(files.KeyFileError, match="chmod 600") as caught:
        files.read_seal_private(path)
    assert "PRIVATE" not in str(caught.value)


def test_seal_keys_survive_their_files(tmp_path: Path) -> None:
    """Seal keys are read back from PEM; missing, foreign and broken files are named."""
    key = X25519PrivateKey.generate()
    files.write_private(tmp_path / "k", files.private_pem(key))
    files.write_public(tmp_path / "p", files.public_pem(key.public_key()))
    assert files.read_seal_private(tmp_path / "k").private_bytes_raw() == key.private_bytes_raw()
    assert files.read_seal_public(tmp_path / "p").public_bytes_raw() == key.public_key().public_bytes_raw()
    files.write_private(tmp_path / "x", "nonsense")
    for name in ("missing", "x"):
        with pytest.raises(files.KeyFileError, match=name):
            files.read_seal_private(tmp_path / name)
        with pytest.raises(files.KeyFileError, match=name):
            files.read_seal_public(tmp_path / name)
