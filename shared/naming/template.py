"""The grammar of HostnameGenerator templates (decision 17): variables and `label "k"`, nothing else.

Kuma evaluates Go templates; everything in its defaults, tests and pages uses only the forms below, so a
whitelisted grammar without any evaluation surface replaces the engine. Messages are Kuma's.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, TypeAlias, assert_never

import msgspec

from shared.model.resource import NO_LABELS, Labels

Variable: TypeAlias = Literal["Name", "DisplayName", "Namespace", "Zone", "Mesh"]

DNS_NAME_MAX = 253
DNS_LABEL_MAX = 63
_RFC1123 = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_RFC1123_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_rfc1123 = re.compile(_RFC1123)
_hexadecimal = re.compile(r"0x[0-9a-f]*")
_action = re.compile(r"\{\{(?P<body>(?:[^\"}]|\"[^\"]*\"|\}(?!\}))*)\}\}", re.DOTALL)
_variable = re.compile(r"\s*\.(Name|DisplayName|Namespace|Zone|Mesh)\s*")
_label = re.compile(r"\s*label\s*\"([^\"\\]+)\"\s*")


class TemplateFault(msgspec.Struct, frozen=True):
    """Why a template cannot be parsed or rendered; `message` is a sentence for the author of the resource."""

    message: str


class TemplateValues(msgspec.Struct, frozen=True):
    """What one service offers to a template."""

    name: str
    display_name: str = ""
    namespace: str = ""
    zone: str = ""
    mesh: str = ""
    labels: Labels = NO_LABELS


class VariablePart(msgspec.Struct, frozen=True):
    """`{{ .Name }}` and the like."""

    name: Variable


class LabelPart(msgspec.Struct, frozen=True):
    """`{{ label "k" }}`."""

    key: str


Part: TypeAlias = str | VariablePart | LabelPart


class Template(msgspec.Struct, frozen=True):
    """A parsed template: literal text and placeholders, in order."""

    text: str
    parts: tuple[Part, ...]

    def name_in(self, hostname: str) -> str | None:
        """The only service name that can render to `hostname`; "" when none can, None when it cannot be told.

        Names are single DNS labels, so a template that begins with the name and goes on with a dot can be read
        backwards. It lets a freed hostname find the services that wait for it without asking all of them.
        """
        head, *rest = self.parts or ("",)
        prefix = ""
        if isinstance(head, str):
            prefix = head
            head, *rest = rest or ("",)
        if not (isinstance(head, VariablePart) and head.name in ("Name", "DisplayName")):
            return None
        if rest and not (isinstance(rest[0], str) and rest[0].startswith(".")):
            return None
        if not hostname.startswith(prefix):
            return ""
        return hostname[len(prefix) :].split(".", 1)[0]


STUB_VALUES = TemplateValues("name", "displayname", "namespace", "zone", "mesh")


def dns_name_fault(name: str) -> str | None:
    """Why `name` is not an RFC 1123 subdomain, or None when it is one."""
    if len(name) > DNS_NAME_MAX:
        return f"must be no more than {DNS_NAME_MAX} characters"
    if not _rfc1123.fullmatch(name):
        return _RFC1123_TEXT
    if any(len(label) > DNS_LABEL_MAX for label in name.split(".")):
        return f"each part between dots must be no more than {DNS_LABEL_MAX} characters"
    last = name.rpartition(".")[2]
    if last.isdigit() or _hexadecimal.fullmatch(last):
        return "a name that ends in a number is read as an address"
    if last == "localhost":
        return "localhost is every host's own (RFC 6761 section 6.3)"
    return None


@lru_cache(maxsize=1024)
def parse_template(text: str) -> Template | TemplateFault:
    """Parse a template and try it with stub values, as Kuma does when a HostnameGenerator is applied."""
    if not text:
        return TemplateFault("must not be empty")
    parts: list[Part] = []
    position = 0
    for action in _action.finditer(text):
        parts.append(text[position : action.start()])
        position = action.end()
        body = action["body"]
        if variable := _variable.fullmatch(body):
            parts.append(VariablePart(variable[1]))  # type: ignore[arg-type]
        elif label := _label.fullmatch(body):
            parts.append(LabelPart(label[1]))
        else:
            return TemplateFault(
                f'couldn\'t parse template: "{action[0]}" is not supported: use .Name, .DisplayName, .Namespace, '
                '.Zone, .Mesh or label "key"'
            )
    parts.append(text[position:])
    for part in parts:
        if isinstance(part, str) and ("{{" in part or "}}" in part):
            return TemplateFault(f'couldn\'t parse template: unbalanced "{{{{" or "}}}}" in "{part}"')
    template = Template(text, tuple(part for part in parts if part != ""))
    stub = "".join(_stub(part) for part in template.parts)
    if dns_name_fault(stub):
        return TemplateFault(f'template renders to "{stub}" which is not a valid DNS name: {dns_name_fault(stub)}')
    return template


def render(template: Template, values: TemplateValues) -> str | TemplateFault:
    """The hostname of one service, or why there is none (a missing label, or not a DNS name)."""
    out: list[str] = []
    for part in template.parts:
        match part:
            case str():
                out.append(part)
            case VariablePart():
                out.append(_value(part.name, values))
            case LabelPart(key):
                value = values.labels.get(key)
                if value is None:
                    return TemplateFault(
                        f'pre evaluation of template with parameters failed with error="label {key} not found"'
                    )
                out.append(value)
            case _:
                assert_never(part)
    hostname = "".join(out)
    fault = dns_name_fault(hostname)
    return TemplateFault(f'generated hostname "{hostname}" is not a valid DNS name: {fault}') if fault else hostname


def _stub(part: Part) -> str:
    match part:
        case str():
            return part
        case VariablePart():
            return _value(part.name, STUB_VALUES)
        case LabelPart():
            return "label"
        case _:
            assert_never(part)


def _value(name: Variable, values: TemplateValues) -> str:
    match name:
        case "Name":
            return values.name
        case "DisplayName":
            return values.display_name or values.name
        case "Namespace":
            return values.namespace
        case "Zone":
            return values.zone
        case "Mesh":
            return values.mesh
        case _:
            assert_never(name)
