"""The flags that every command of the API shares, and the client they lead to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from shared.commands import context
from shared.commands.client import TIMEOUT_SECONDS, Client
from shared.commands.output import Output
from shared.process.exit_code import ExitCode

__all__ = ["Api", "ExitCode", "OutputFlag", "TokenFile", "Zone", "client", "current"]

Api: TypeAlias = Annotated[str | None, Parameter(help="Address of the API, such as http://127.0.0.1:5681.")]
TokenFile: TypeAlias = Annotated[str | None, Parameter(help="File with the token to show to the API.")]
Zone: TypeAlias = Annotated[str | None, Parameter(help="Talk to this zone of the context instead of global.")]
OutputFlag: TypeAlias = Annotated[Output, Parameter(name=["--output", "-o"], help="How to print.")]


def current() -> context.Context:
    """The context of this process. Raises CommandFailed."""
    try:
        home: Path | None = Path.home()
    except RuntimeError:
        home = None
    return context.load(os.environ, Path.cwd(), home)


def client(
    api: str | None, token_file: str | None, zone: str | None = None, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> Client:
    """A client of the API that flags, environment and context file name. Raises CommandFailed."""
    target = context.target(current(), api=api, token_file=token_file, zone=zone)
    return Client(target, timeout_seconds=timeout_seconds)
