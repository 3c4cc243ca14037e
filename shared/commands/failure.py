"""How a command fails: a message for people and an exit code for the shell."""

from __future__ import annotations

from shared.process.exit_code import ExitCode


class CommandFailed(Exception):
    """Ends the command: `message` goes to stderr, `code` to the shell."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
