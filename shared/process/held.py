"""One process at a time: a data directory is held by a lock for as long as its process lives, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class AlreadyHeld(Exception):
    """Another process holds the directory under the same name, or the directory cannot be used."""


@contextmanager
def held(directory: Path, name: str) -> Iterator[None]:
    """Hold `directory` as `name`. Raises AlreadyHeld."""
    path = directory / f"{name}.lock"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AlreadyHeld(f"data_dir: {path}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyHeld(f"data_dir: {directory}: another {name} runs here") from None
        yield
    finally:
        os.close(descriptor)
