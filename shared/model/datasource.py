"""Data sources: both shapes users write become one, on trees that still know their lines (decision 12).

Kuma 2.14: `secret`, `inline` or `inlineString`. Kuma 3.0: `type: Secret | InsecureInline` with its object.
"""

from __future__ import annotations

from shared.model.document import Field, Fields, Items, Node, Scalar, child
from shared.model.external_service import ExternalService
from shared.model.gateway import MeshGateway
from shared.model.kinds import Kind
from shared.model.resource import MeshExternalService
from shared.model.shape import REQUIRED, Shape

SOURCES = frozenset({"caCert", "clientCert", "clientKey"})
_EACH = frozenset({"[]"})
"""Every item of a sequence."""
_AT = {
    MeshExternalService: ("spec", "tls", "verification", SOURCES),
    ExternalService: ("networking", "tls", SOURCES),
    MeshGateway: ("conf", "listeners", _EACH, "tls", "certificates", _EACH),
}
_REFUSED = ("File", "EnvVar")
_HOST = (
    "is refused: a resource must not read the control plane's host; use inline (base64), inlineString or secret instead"
)


def canonical_data_sources(node: Fields, kind: Kind, found: list[Shape]) -> Fields:
    """The document with each data source in canonical shape; faults are added to `found`."""
    keys = _AT.get(kind.type)
    made = node if keys is None else _at(node, keys, "", found)
    return made if isinstance(made, Fields) else node


def _at(node: Node, keys: tuple[str | frozenset[str], ...], path: str, found: list[Shape]) -> Node:
    """The node with the data sources that these keys lead to; a set of keys stands for each of them."""
    if not keys:
        return _canonical(node, path, found) if isinstance(node, Fields) else node
    names, rest = frozenset({keys[0]}) if isinstance(keys[0], str) else keys[0], keys[1:]
    match node:
        case Items(items=items) if names is _EACH:
            made = (_at(one, rest, f"{path}[{number}]", found) for number, one in enumerate(items))
            return Items(tuple(made), node.line, node.column)
        case Fields(fields=fields):
            return Fields(tuple(_field(one, names, rest, path, found) for one in fields), node.line, node.column)
        case _:
            return node


def _field(
    one: Field, names: frozenset[str], rest: tuple[str | frozenset[str], ...], path: str, found: list[Shape]
) -> Field:
    if one.key not in names:
        return one
    return Field(one.key, _at(one.value, rest, child(path, one.key), found), one.line, one.column)


def _canonical(node: Fields, path: str, found: list[Shape]) -> Fields:
    said = node.text("type") in _REFUSED  # as Kuma, which looks at nothing more then
    for field in node.fields:
        if field.key == "sealed" or (field.key in ("file", "envVar") and not said):
            reason = "unknown field" if field.key == "sealed" else f"{field.key} {_HOST}"
            found.append(Shape(child(path, field.key), reason, field.line, field.column))
    if node.get("type") is not None or node.get("secretRef") is not None or node.get("insecureInline") is not None:
        return _discriminated(node, path, found)
    return node.without("file", "envVar", "sealed")


def _discriminated(node: Fields, path: str, found: list[Shape]) -> Fields:
    kind = node.get("type")
    kept: tuple[Field, ...] = ()
    match node.text("type"):
        case "Secret":
            kept = _secret(node, f"{path}.secretRef", found)
        case "InsecureInline":
            kept = _inline(node, f"{path}.insecureInline", found)
        case "File" | "EnvVar" as refused:
            reason = f"{refused} must be one of: Secret, InsecureInline ({refused} {_HOST})"
            found.append(Shape(f"{path}.type", reason, (kind or node).line, (kind or node).column))
        case other:
            # Kuma's words: it knows all four, and refuses two of them by the sentence above.
            reason = f"{other or ''} must be one of: EnvVar, InsecureInline, File, Secret".lstrip()
            found.append(Shape(f"{path}.type", reason, (kind or node).line, (kind or node).column))
    _only(node, ("type", "secretRef", "insecureInline", "file", "envVar", "sealed"), path, found)
    return Fields(kept, node.line, node.column)


def _secret(node: Fields, path: str, found: list[Shape]) -> tuple[Field, ...]:
    reference = node.get("secretRef")
    _unexpected(node, "insecureInline", path, found)
    if not isinstance(reference, Fields):
        found.append(Shape(path, REQUIRED, node.line, node.column))
        return ()
    kind = reference.text("kind")
    if kind != "Secret":
        _note(reference, f"{path}.kind", f"{kind or ''} must be one of: Secret".lstrip(), found)
    _only(reference, ("kind", "name"), path, found)
    return _text(reference, "name", "secret", path, found)


def _inline(node: Fields, path: str, found: list[Shape]) -> tuple[Field, ...]:
    inline = node.get("insecureInline")
    _unexpected(node, "secretRef", path, found)
    if not isinstance(inline, Fields):
        found.append(Shape(path, REQUIRED, node.line, node.column))
        return ()
    _only(inline, ("value",), path, found)
    return _text(inline, "value", "inlineString", path, found)


def _text(node: Fields, key: str, name: str, path: str, found: list[Shape]) -> tuple[Field, ...]:
    value = node.get(key)
    if not (isinstance(value, Scalar) and isinstance(value.value, str) and value.value):
        _note(value or node, f"{path}.{key}", REQUIRED, found)
        return ()
    return (Field(name, value, value.line, value.column),)


def _only(node: Fields, known: tuple[str, ...], path: str, found: list[Shape]) -> None:
    found.extend(
        Shape(child(path, field.key), "unknown field", field.line, field.column)
        for field in node.fields
        if field.key not in known
    )


def _unexpected(node: Fields, key: str, path: str, found: list[Shape]) -> None:
    for field in node.fields:
        if field.key == key:
            where = child(path.rpartition(".")[0], key)
            found.append(Shape(where, "must not be defined with this type", field.line, field.column))


def _note(node: Node, path: str, reason: str, found: list[Shape]) -> None:
    found.append(Shape(path, reason, node.line, node.column))
