"""A tiny real HTTP server that answers as a control plane would, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

Answer = tuple[int, Any]


class Request(msgspec.Struct, frozen=True):
    method: str
    path: str
    token: str
    body: Any = None


class Api:
    """`answers` maps "METHOD /path" (without query) to a status and a body, or to a function giving them."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[Request], Answer]] = {}
        self.requests: list[Request] = []
        self.headers: dict[str, str] = {}
        self.url = ""

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        found = self.answers.get(f"{request.method} {request.path.partition('?')[0]}", (404, {"title": "Not found"}))
        return found(request) if callable(found) else found


@contextmanager
def served() -> Iterator[Api]:
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            status, value = api.answer(Request(self.command, self.path, token, body))
            data = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            for name, text in api.headers.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield api
        server.shutdown()
        thread.join()
