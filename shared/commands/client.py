"""The HTTP API as a client sees it, on the standard library: commands start fast."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from shared import VERSION
from shared.commands import output
from shared.commands.context import Target
from shared.commands.failure import CommandFailed
from shared.process.exit_code import ExitCode

TIMEOUT_SECONDS = 30.0
PAGE_SIZE = 1000
"""Items asked for at once; Kuma's upper limit."""
PIECE_BYTES = 1 << 20

_EXIT_CODES = {
    400: ExitCode.REFUSED,
    405: ExitCode.REFUSED,
    409: ExitCode.CONFLICT,
    412: ExitCode.CONFLICT,
    413: ExitCode.REFUSED,
    422: ExitCode.REFUSED,
    504: ExitCode.TIMEOUT,
}


class ApiRefused(CommandFailed):
    """The API answered with an error; `problem` is its problem details."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(_told(status, problem), _EXIT_CODES.get(status, ExitCode.FAILED))
        self.status = status
        self.problem = problem


class Client:
    """Calls one API. Every method raises ApiRefused, or CommandFailed when there was no answer."""

    def __init__(self, target: Target, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._target = target
        self._timeout_seconds = timeout_seconds
        self._warned = False

    def get(self, path: str, **query: Any) -> Any:
        """The decoded answer. Query values that are None are left out; one that is a tuple stands once for each."""
        return self._call("GET", _with_query(path, query))

    def post(self, path: str, body: bytes, *, if_match: str = "") -> Any:
        """The decoded answer to a JSON body. if_match: the version that is to be replaced, as an entity tag."""
        return self._call("POST", path, body, if_match=if_match)

    def delete(self, path: str) -> Any:
        """The decoded answer, None when it is empty."""
        return self._call("DELETE", path)

    def deleted(self, path: str) -> tuple[int | None, list[str]]:
        """Delete; the last event of the log that this was written to, where the API says it, and its warnings."""
        with self._open("DELETE", path, None, timeout_seconds=self._timeout_seconds) as answer:
            said, whole = answer.headers.get("Zonal-Sequence", ""), self._decoded(answer) or {}
        return int(said) if said.isascii() and said.isdigit() else None, list(whole.get("warnings") or ())

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, page after page."""
        offset = 0
        while True:
            page = self.get(path, **query, size=PAGE_SIZE, offset=offset)
            items = page.get("items") or []
            yield from items
            offset += len(items)
            if not items or not page.get("next"):
                return

    def lines(self, path: str, **query: Any) -> Iterator[Any]:
        """The objects of an endless answer of one JSON object per line, as they come."""
        with self._open("GET", _with_query(path, query), None, timeout_seconds=None) as answer:
            try:
                for line in answer:
                    if line.strip():
                        yield json.loads(line)
            except (OSError, http.client.HTTPException) as error:
                raise CommandFailed(f"{self._target.api} broke off: {error}") from None

    def pieces(self, path: str, **query: Any) -> Iterator[bytes]:
        """The bytes of a long answer as they come, in pieces of any size."""
        with self._open("GET", _with_query(path, query), None, timeout_seconds=self._timeout_seconds) as answer:
            try:
                while piece := answer.read1(PIECE_BYTES):
                    yield piece
            except (OSError, http.client.HTTPException) as error:
                raise CommandFailed(f"{self._target.api} broke off: {error}") from None

    @property
    def api(self) -> str:
        """The address that is called."""
        return self._target.api

    def _call(self, method: str, path: str, body: bytes | None = None, *, if_match: str = "") -> Any:
        with self._open(method, path, body, timeout_seconds=self._timeout_seconds, if_match=if_match) as answer:
            return self._decoded(answer)

    def _decoded(self, answer: Any) -> Any:
        try:
            data = answer.read()
        except TimeoutError:
            raise self._timed_out() from None
        except (OSError, http.client.HTTPException) as error:
            raise CommandFailed(f"{self._target.api} broke off: {error}") from None
        try:
            return json.loads(data) if data.strip() else None
        except ValueError:
            raise CommandFailed(f"{self._target.api} does not answer in JSON; is it a control plane?") from None

    def _open(
        self, method: str, path: str, body: bytes | None, *, timeout_seconds: float | None, if_match: str = ""
    ) -> http.client.HTTPResponse:
        if not self._target.api.startswith(("http://", "https://")):
            raise CommandFailed(f"{self._target.api} is no http:// or https:// address", ExitCode.USAGE)
        headers = {"accept": "application/json", "user-agent": f"zonal/{VERSION}"}
        if body is not None:
            headers["content-type"] = "application/json"
        if if_match:
            headers["if-match"] = if_match
        if self._target.token:
            headers["authorization"] = f"Bearer {self._target.token}"
        request = urllib.request.Request(self._target.api + path, data=body, headers=headers, method=method)  # noqa: S310 - the scheme is checked above
        # No proxy of the environment stands between a command and its control plane, and no redirect takes the token.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirect()]
        if self._target.api.startswith("https://"):
            handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context()))
        try:
            answer: http.client.HTTPResponse = urllib.request.build_opener(*handlers).open(
                request, timeout=timeout_seconds
            )
        except urllib.error.HTTPError as error:
            with error:
                raise ApiRefused(error.code, _problem(error)) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._timed_out() from None
            raise CommandFailed(f"cannot reach {self._target.api}: {error.reason}") from None
        except TimeoutError:
            raise self._timed_out() from None
        except (OSError, http.client.HTTPException) as error:
            raise CommandFailed(f"cannot reach {self._target.api}: {error}") from None
        self._warn(answer.headers.get("Zonal-Halted", ""))
        return answer

    def _warn(self, events: str) -> None:
        """Say once that what is shown is of before events that the plane cannot read."""
        if events and not self._warned:
            self._warned = True
            said = "it cannot read: what it shows of that log is of before (zonal halted)"
            output.say(f"warning: {self._target.api} stands before event {events}, which {said}")

    def _timed_out(self) -> CommandFailed:
        seconds = f"{self._timeout_seconds:g}"
        return CommandFailed(f"{self._target.api} did not answer within {seconds} s", ExitCode.TIMEOUT)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_request: Any) -> None:
        return None


def _with_query(path: str, query: dict[str, Any]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def _problem(error: urllib.error.HTTPError) -> dict[str, Any]:
    try:
        found = json.loads(error.read())
    except (ValueError, OSError, http.client.HTTPException):
        found = None
    return found if isinstance(found, dict) else {"title": error.reason}


def _told(status: int, problem: dict[str, Any]) -> str:
    """One line for the problem, one for each invalid parameter."""
    title, detail = problem.get("title") or "refused", problem.get("detail")
    head = f"{status} {title}: {detail}" if detail and detail != title else f"{status} {title}"
    parameters = problem.get("invalid_parameters") or []
    return "\n".join([head, *(f"  {one.get('field', '')}: {one.get('reason', '')}" for one in parameters)])
