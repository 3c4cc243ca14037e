"""Manifests that a command is given: read whole, and refused where the user wrote them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from shared.commands.client import ApiRefused, Client
from shared.commands.failure import CommandFailed
from shared.model import codec, manifest
from shared.model.limits import FAULTS_MAX, FILE_BYTES_MAX
from shared.model.manifest import Document
from shared.process.exit_code import ExitCode

STANDARD_INPUT = "-"
_NOTHING = "nothing was applied"

Files = Annotated[
    list[str],
    Parameter(
        name=["--file", "-f"],
        allow_leading_hyphen=True,
        negative="",
        help="A manifest, - for standard input; repeatable.",
    ),
]


def read(files: Sequence[str]) -> tuple[Document, ...]:
    """The documents of all files. Raises CommandFailed naming every fault."""
    documents: list[Document] = []
    faults: list[str] = []
    for name in files:
        try:
            text = _text(name)
        except OSError as error:
            raise CommandFailed(f"cannot read {name}: {error.strerror}", ExitCode.USAGE) from None
        except UnicodeDecodeError:
            raise CommandFailed(f"{name}: not text in UTF-8", ExitCode.REFUSED) from None
        parsed = manifest.parse(text, "<stdin>" if name == STANDARD_INPUT else name)
        faults += [str(fault) for fault in parsed.faults]
        documents += parsed.documents
    if faults:
        raise CommandFailed(_lines(faults), ExitCode.REFUSED)
    if not documents:
        raise CommandFailed(f"{', '.join(files)}: no resource in it", ExitCode.REFUSED)
    return tuple(documents)


def _text(name: str) -> str:
    """A file's text, or one character more than any may have: a device has no end."""
    if name == STANDARD_INPUT:
        return sys.stdin.read(FILE_BYTES_MAX + 1)
    with Path(name).open(encoding="utf-8") as file:
        return file.read(FILE_BYTES_MAX + 1)


def posted(client: Client, path: str, documents: Sequence[Document]) -> dict[str, Any]:
    """The API's answer to a batch. Raises CommandFailed, at the lines where the user wrote what is refused."""
    body = codec.encode({"resources": [document.resource for document in documents]})
    try:
        return client.post(path, body) or {}
    except ApiRefused as refused:
        parameters = refused.problem.get("invalid_parameters") or ()
        raise refused_at_lines(parameters, documents, refused.code) or refused from None


def refused_at_lines(
    parameters: Sequence[Mapping[str, Any]], documents: Sequence[Document], code: ExitCode
) -> CommandFailed | None:
    """A refusal told where the user wrote what it is about; None when it is about no document."""
    told: list[str] = []
    for parameter in parameters:
        index, path, reason = parameter.get("index"), parameter.get("path", ""), parameter.get("reason", "")
        if not isinstance(index, int) or index >= len(documents):
            return None
        told.append(str(documents[index].fault(path, reason)))
    return CommandFailed(_lines(told), code) if told else None


def _lines(faults: Sequence[str]) -> str:
    left = len(faults) - FAULTS_MAX
    return "\n".join([*faults[:FAULTS_MAX], *([f"{left} more faults are not told"] if left > 0 else ()), _NOTHING])
