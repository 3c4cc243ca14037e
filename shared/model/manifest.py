"""Manifests: text that people write → resources, with every fault at its line.

Both YAML forms are read (Universal and Kubernetes), several documents to a file, JSON as well. The result is
canonical: Universal fields, one shape of data source (decision 12). Nothing unknown is dropped (decision 14);
only what clients echo back (`status`, `creationTime`, …) is left out, as Kuma does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import field as _field

from shared.model import codec, kinds, shape
from shared.model.datasource import canonical_data_sources
from shared.model.document import Field, Fields, Items, Malformed, Node, Scalar, child, from_plain, plain, read
from shared.model.kinds import Kind
from shared.model.limits import RESOURCES_MAX
from shared.model.resource import MESH_LABEL, Resource
from shared.model.shape import Shape
from shared.model.sizes import oversized

_ECHOED = ("creationTime", "modificationTime", "kri", "snis", "status", "version")
"""What clients send back with a resource; ignored on input (wire contract 3.2). `version` is our own."""
_METADATA = frozenset(
    {
        "name",
        "namespace",
        "labels",
        "annotations",
        "creationTimestamp",
        "generation",
        "managedFields",
        "ownerReferences",
        "finalizers",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)


class Fault(msgspec.Struct, frozen=True):
    """What is wrong, and where. line and column count from 1; 0 when the text had no lines (JSON of an API)."""

    file: str
    line: int
    column: int
    path: str
    reason: str

    def __str__(self) -> str:
        place = ":".join(part for part in (self.file, str(self.line or ""), str(self.column or "")) if part)
        return ": ".join(part for part in (place, self.path, self.reason) if part)


class Document(msgspec.Struct, frozen=True):
    """A resource and where it stands. `places` maps canonical paths to (line, column, path as written)."""

    resource: Resource
    file: str = ""
    line: int = 0
    column: int = 0
    places: Mapping[str, tuple[int, int, str]] = _field(default_factory=dict)

    def fault(self, path: str, reason: str) -> Fault:
        """The fault at a canonical path (of a violation), shown where the user wrote it or at its nearest parent."""
        at = path
        while at and at not in self.places:
            at = at[: max(at.rfind("."), at.rfind("["), 0)]
        line, column, written = self.places.get(at, (self.line, self.column, at))
        return Fault(self.file, line, column, written + path[len(at) :] if at else path, reason)


class Parsed(msgspec.Struct, frozen=True):
    """Documents that can be read and all faults of those that cannot."""

    documents: tuple[Document, ...] = ()
    faults: tuple[Fault, ...] = ()


def parse(text: str, file: str = "") -> Parsed:
    """Read a file of manifests. A file that is not YAML has one fault; else every document is judged apart."""
    documents: list[Document] = []
    faults: list[Fault] = []
    try:
        for node in read(text):
            _add(node, file, documents, faults)
    except Malformed as malformed:
        faults.append(_fault_of(malformed, file))
    return Parsed(tuple(documents), tuple(faults))


def parse_plain(value: Any, file: str = "") -> Parsed:
    """The same for one document that was decoded from JSON already."""
    documents: list[Document] = []
    faults: list[Fault] = []
    try:
        _add(from_plain(value), file, documents, faults)
    except Malformed as malformed:
        faults.append(_fault_of(malformed, file))
    return Parsed(tuple(documents), tuple(faults))


def _fault_of(malformed: Malformed, file: str) -> Fault:
    return Fault(file, malformed.line, malformed.column, malformed.path, malformed.reason)


def _add(node: Node, file: str, documents: list[Document], faults: list[Fault]) -> None:
    for single in _members(node):
        if len(documents) == RESOURCES_MAX:
            raise Malformed(single.line, single.column, f"more than {RESOURCES_MAX} resources")
        result = _Reader(file).read(single)
        if isinstance(result, Document):
            documents.append(result)
        else:
            faults.extend(result)


def _members(node: Node) -> tuple[Node, ...]:
    """The documents of a Kubernetes List or of a plain list; else the document itself."""
    if isinstance(node, Items):
        return node.items
    if isinstance(node, Fields) and node.text("kind") == "List" and isinstance(items := node.get("items"), Items):
        return items.items
    return (node,)


class _Reader:
    """Reads one document."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Shape] = []
        self.kubernetes = False
        self.legacy_mesh = False
        self.kind: Kind | None = None

    def read(self, node: Node) -> Document | list[Fault]:
        if not isinstance(node, Fields):
            return [Fault(self.file, node.line, node.column, "", "a document must be an object with a type or a kind")]
        universal = self._universal(node)
        if universal is None or self.kind is None:
            return self._faults()
        universal = canonical_data_sources(universal, self.kind, self.found)
        if too_large := oversized(universal):
            self.found += too_large
            return self._faults()
        resource = None
        if not self.found:
            resource = self._convert(plain(universal))
        if resource is None:
            value, more = shape.faults(universal, self.kind.type)
            self.found += more
            if self.found:
                return self._faults()
            try:
                resource = codec.convert(value, self.kind.type)
            except msgspec.ValidationError as error:
                return [Fault(self.file, node.line, node.column, "", str(error))]
        return Document(resource, self.file, node.line, node.column, self._places(universal) if self.file else {})

    def _convert(self, value: Any) -> Resource | None:
        assert self.kind is not None  # noqa: S101 - read() checked it
        try:
            resource: Resource = codec.convert(value, self.kind.type)
        except msgspec.ValidationError:
            return None
        return resource

    def _faults(self) -> list[Fault]:
        faults = [Fault(self.file, s.line, s.column, self._written(s.path), s.reason) for s in self.found]
        return sorted(faults, key=lambda fault: (fault.line, fault.column))

    def _refuse(self, node: Node | Field, path: str, reason: str) -> None:
        self.found.append(Shape(path, reason, node.line, node.column))

    # --- the two forms --------------------------------------------------------------------------------------

    def _universal(self, node: Fields) -> Fields | None:
        if node.get("apiVersion") is not None or (node.get("kind") is not None and node.get("type") is None):
            self.kubernetes = True
            return self._from_kubernetes(node)
        self.kind = self._kind(node, node.text("type"), "type")
        if self.kind is None:
            return None
        node = node.without(*_ECHOED)
        if not self.kind.mesh_scoped and node.text("mesh") is not None:
            # A mesh on a kind of global scope has no effect (seed 001 writes one on a HostnameGenerator).
            node = node.without("mesh")
        return self._without_sealed(node)

    def _kind(self, node: Fields, name: str | None, key: str) -> Kind | None:
        if name is None:
            self._refuse(node.get(key) or node, key, "must be text" if node.get(key) else shape.REQUIRED)
            return None
        kind = kinds.by_name(name)
        if kind is None:
            self._refuse(node.get(key) or node, key, kinds.unknown(name))
        return kind

    def _from_kubernetes(self, node: Fields) -> Fields | None:
        api, name = node.text("apiVersion"), node.text("kind")
        if api == "v1" and name == "Secret":
            return self._from_kubernetes_secret(node)
        if api != kinds.KUBERNETES_API:
            self._refuse(node.get("apiVersion") or node, "apiVersion", f"must be {kinds.KUBERNETES_API}")
        self.kind = self._kind(node, name, "kind")
        if self.kind is None:
            return None
        fields = self._metadata(node, self.kind)
        self._only(node, {"apiVersion", "kind", "metadata", "mesh", "spec", "status"}, "")
        spec = node.get("spec")
        if self.kind.plugin:
            fields += [field for field in node.fields if field.key == "spec"]
        elif isinstance(spec, Fields):
            own = {"name", "labels", "type"} | ({"mesh"} if self.kind.mesh_scoped else set())
            for field in spec.fields:
                if field.key in own:
                    self._refuse(field, f"spec.{field.key}", "unknown field, it stands under metadata")
                else:
                    fields.append(field)
        elif spec is not None and not (isinstance(spec, Scalar) and spec.value is None):
            self._refuse(spec, "spec", "must be an object")
        return self._without_sealed(Fields(tuple(fields), node.line, node.column))

    def _from_kubernetes_secret(self, node: Fields) -> Fields | None:
        self.kind = kinds.by_name("Secret")
        assert self.kind is not None  # noqa: S101 - it is in the table
        if node.text("type") != kinds.SECRET_TYPE:
            self._refuse(node.get("type") or node, "type", f"must be {kinds.SECRET_TYPE}")
        fields = self._metadata(node, self.kind)
        self._only(node, {"apiVersion", "kind", "metadata", "type", "data"}, "")
        data = node.get("data")
        if not isinstance(data, Fields):
            self._refuse(data or node, "data", "must be an object" if data else shape.REQUIRED)
            return Fields(tuple(fields), node.line, node.column)
        self._only(data, {"value"}, "data")
        if data.get("value") is None:
            self._refuse(data, "data.value", shape.REQUIRED)
        fields += [Field("data", f.value, f.line, f.column) for f in data.fields if f.key == "value"]
        return Fields(tuple(fields), node.line, node.column)

    def _metadata(self, node: Fields, kind: Kind) -> list[Field]:
        metadata = node.get("metadata")
        if not isinstance(metadata, Fields):
            self._refuse(metadata or node, "metadata", "must be an object" if metadata else shape.REQUIRED)
            return []
        self._only(metadata, _METADATA, "metadata")
        fields = [field for field in metadata.fields if field.key in ("name", "labels")]
        mesh = next((field for field in node.fields if field.key == "mesh"), None)
        self.legacy_mesh = mesh is not None
        labels = metadata.get("labels")
        if mesh is None and isinstance(labels, Fields):
            mesh = next((field for field in labels.fields if field.key == MESH_LABEL), None)
        if mesh is not None and kind.mesh_scoped:
            fields.append(Field("mesh", mesh.value, mesh.line, mesh.column))
        return fields

    def _only(self, node: Fields, known: frozenset[str] | set[str], path: str) -> None:
        for field in node.fields:
            if field.key not in known:
                self._refuse(field, child(path, field.key), "unknown field")

    def _without_sealed(self, node: Fields) -> Fields:
        """`sealed` is ours: nobody may hand in ciphertext."""
        for field in node.fields:
            if field.key == "sealed":
                self._refuse(field, "sealed", "unknown field")
        return node.without("sealed")

    # --- places ---------------------------------------------------------------------------------------------

    def _written(self, path: str) -> str:
        """A canonical path as it stands in the user's form."""
        if not self.kubernetes or self.kind is None:
            return path
        head = path.partition(".")[0].partition("[")[0]
        if head in ("name", "labels"):
            return f"metadata.{path}"
        if head == "mesh" and self.kind.mesh_scoped:
            return path if self.legacy_mesh else f'metadata.labels["{MESH_LABEL}"]'
        if head in ("spec", "metadata", "apiVersion", "kind", "type", "status", ""):
            return path
        if self.kind.name == "Secret":
            return "data.value" if path == "data" else path
        return path if self.kind.plugin else f"spec.{path}"

    def _places(self, node: Fields) -> dict[str, tuple[int, int, str]]:
        places: dict[str, tuple[int, int, str]] = {}

        def note(at: Node, path: str) -> None:
            places[path] = (at.line, at.column, self._written(path))
            match at:
                case Fields():
                    for field in at.fields:
                        note(field.value, child(path, field.key))
                case Items():
                    for index, item in enumerate(at.items):
                        note(item, f"{path}[{index}]")
                case Scalar():
                    pass

        note(node, "")
        return places
