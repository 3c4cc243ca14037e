"""`static-response`: the zone egress itself answers, always the same; a maintenance page, or a stub.

extension:
  type: static-response
  config:
    status: 503            # 200 to 599; 200 when left out
    headers: {retry-after: "120", content-type: text/html}
    body: <h1>Back at noon.</h1>
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route

from zone_cp.extensions.extension import Config, Extension, Generated, refused
from zone_cp.view.zone_view import ExternalServiceView, Failure

BODY_MAX_BYTES = 65_536
HEADERS_MAX = 32
_FIELDS = ("status", "headers", "body")
_NAME = re.compile(r"[A-Za-z0-9!#$&'*+.^_`|~-]{1,128}")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "upgrade", "host"})
"""Headers that say where a message ends are Envoy's."""


def _validate(service: ExternalServiceView, config: Config) -> Failure | None:
    if service.protocol_class != "http":
        return refused("a static response needs protocol http, http2 or grpc", field="spec.match.protocol")
    for name in config:
        if name not in _FIELDS:
            return refused("unknown field", name)
    status, body = config.get("status", 200), config.get("body", "")
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        return refused("must be a whole number from 200 to 599", "status")
    if not isinstance(body, str) or len(body.encode()) > BODY_MAX_BYTES:
        return refused(f"must be text of at most {BODY_MAX_BYTES} bytes", "body")
    return _headers_fault(config.get("headers", {}))


def _headers_fault(headers: object) -> Failure | None:
    if not isinstance(headers, Mapping) or len(headers) > HEADERS_MAX:
        return refused(f"must be an object of at most {HEADERS_MAX} headers", "headers")
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or name.lower() in _FRAMING:
            return refused("is not a header that a response may be given", f'headers["{name}"]')
        if not isinstance(value, str) or not value.isprintable() or not value.isascii():
            return refused("must be one line of printable ASCII text", f'headers["{name}"]')
    return None


def _generate(_: ExternalServiceView, config: Config) -> Generated:
    headers = [
        core.HeaderValueOption(
            # A percent sign begins a command of Envoy's format; two stand for one.
            header=core.HeaderValue(key=name.lower(), value=value.replace("%", "%%")),
            append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for name, value in sorted(config.get("headers", {}).items())
    ]
    answer = route.DirectResponseAction(
        status=config.get("status", 200), body=core.DataSource(inline_string=config.get("body", ""))
    )
    made = route.Route(match=route.RouteMatch(prefix="/"), direct_response=answer, response_headers_to_add=headers)
    return Generated(routes=(bytes(made),))


EXTENSION = Extension("static-response", _validate, _generate)
