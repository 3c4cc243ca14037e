"""What is too large is refused where it stands (`shared/model/limits.py`), in YAML and in JSON, with its path."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.events.decide import Apply, Decision, decide_write
from shared.events.event import GLOBAL, decode_event, encode_event
from shared.model import limits, manifest
from shared.model.document import from_plain
from shared.model.resource import Endpoint, ExternalTls, MeshExternalService, SubjectAltName, Verification
from shared.model.sizes import oversized
from tests.builders import LogBuilder, applied, mes, mesh

MES = "type: MeshExternalService\nname: web\nspec:\n  match: {port: 80}\n"
GENERATOR = "type: HostnameGenerator\nname: g\nspec:\n  template: a.b\n"


def told(text):
    return [str(fault) for fault in manifest.parse(text, "f.yaml").faults]


def listed(count, item):
    return "[" + ", ".join([item] * count) + "]"


def labels(count):
    return "{" + ", ".join(f"k{n}: v" for n in range(count)) + "}"


ENDPOINTS = f"{MES}  endpoints: {{}}\n"
SANS = f"{MES}  endpoints: [{{address: a.com, port: 1}}]\n  tls:\n    verification:\n      subjectAltNames: {{}}\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            MES + f"  endpoints: {listed(1001, '{address: a.com, port: 1}')}\n",
            "5:14: spec.endpoints: has 1001 entries, at most 1000 are possible",
        ),
        (
            MES
            + "  endpoints: [{address: a.com, port: 1}]\n  tls:\n    verification:\n"
            + f"      subjectAltNames: {listed(1001, '{value: a}')}\n",
            "8:24: spec.tls.verification.subjectAltNames: has 1001 entries, at most 1000 are possible",
        ),
        (
            f"type: Zone\nname: east\nlabels: {labels(129)}\n",
            "3:9: labels: has 129 entries, at most 128 are possible",
        ),
        (
            f"type: Zone\nname: east\nlabels:\n  {'k' * 318}: v\n",
            f'4:3: labels["{"k" * 40}…"]: the key has 318 characters, at most 317 are possible',
        ),
        (
            GENERATOR + f"  selector: {{meshExternalService: {{matchLabels: {{a: {'v' * 64}}}}}}}\n",
            "5:53: spec.selector.meshExternalService.matchLabels.a: has 64 characters, at most 63 are possible",
        ),
        (
            MES + f"  extension: {{type: x, config: {{page: [a, {'x' * 65_537}]}}}}\n",
            "5:43: spec.extension.config.page[1]: has 65537 characters, at most 65536 are possible",
        ),
        (
            f"type: Secret\nname: s\ndata: {'A' * 1_500_001}\n",
            "3:7: data: has 1500001 characters, at most 1500000 are possible",
        ),
        (
            "apiVersion: kuma.io/v1alpha1\nkind: Zone\nmetadata:\n  name: east\n" + f"  labels: {labels(129)}\n",
            "5:11: metadata.labels: has 129 entries, at most 128 are possible",
        ),
        ('type: Zone\nname: "a\\0"\n', "2:7: name: must hold no control characters"),
        (
            'type: Zone\nname: a\nlabels: {"\\e[2J": a}\n',
            '3:10: labels["\\u001b[2J"]: the key must hold no control characters',
        ),
    ],
)
def test_too_much_is_told_at_its_place(text, fault):
    """Lists, objects, keys and texts: one limit each, told with file, line, column and path as written."""
    assert told(text) == [f"f.yaml:{fault}"]


def test_the_most_is_allowed():
    """A thousand endpoints, 128 labels, a megabyte of certificates and a key as long as Kubernetes allows."""
    text = (
        f"type: MeshExternalService\nname: web\nlabels: {labels(127)[:-1]}, {'p' * 253}/{'n' * 63}: {'v' * 63}}}\n"
        f"spec:\n  match: {{port: 80}}\n  endpoints: {listed(1000, '{address: a.com, port: 1}')}\n"
        f"  tls: {{verification: {{caCert: {{inlineString: {'A' * 1024 * 1024}}}}}}}\n"
    )
    (document,) = manifest.parse(text, "f.yaml").documents
    assert isinstance(document.resource, MeshExternalService)
    assert len(document.resource.spec.endpoints) == 1000


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("type: Zone\nname: a\nname: b\n", '3:1: name: the key "name" is given twice, first in line 2'),
        (
            'type: Zone\nname: a\nlabels: {a: b, "a": c}\n',
            '3:16: labels.a: the key "a" is given twice, first in line 3',
        ),
        (
            MES + "  endpoints:\n  - {address: a.com, port: 1}\n  - address: b.com\n    port: 1\n    address: c.com\n",
            '9:5: spec.endpoints[1].address: the key "address" is given twice, first in line 7',
        ),
        (
            "type: Zone\nname: a\nlabels: {kuma.io/env: a, kuma.io/env: b}\n",
            '3:26: labels["kuma.io/env"]: the key "kuma.io/env" is given',
        ),
    ],
)
def test_repeated_keys_of_yaml(text, fault):
    """A key that stands twice is refused where it stands for the second time."""
    (one,) = told(text)
    assert one.startswith(f"f.yaml:{fault}")


def test_depth_is_bounded_through_aliases():
    """Aliases of aliases nest as deep as what they stand for, and JSON no deeper than YAML."""
    tower = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000))
    (fault,) = manifest.parse(tower, "f").faults
    assert (fault.line, fault.path, fault.reason) == (32, "a31[0]", "nested deeper than 32 levels")
    assert told("a: " + "[" * 31 + "]" * 31) != told("a: " + "[" * 32 + "]" * 32)
    value: list[object] = []
    for _ in range(100):
        value = [value]
    (fault,) = manifest.parse_plain({"type": "Zone", "name": "a", "labels": value}).faults
    assert fault.reason == "nested deeper than 32 levels"


def test_documents_are_counted_through_lists(monkeypatch):
    """A list of resources is as many as it holds."""
    monkeypatch.setattr(manifest, "RESOURCES_MAX", 3)
    zones = ", ".join(f"{{type: Zone, name: z{n}}}" for n in range(4))
    parsed = manifest.parse(f"kind: List\nitems: [{zones}]\n", "f")
    assert [str(fault) for fault in parsed.faults] == ["f:2:81: more than 3 resources"]


def test_numbers_without_end_are_refused():
    """JSON cannot carry an infinite number."""
    assert told("a: 1e999\n") == ['f.yaml:1:4: a: "1e999" is not a number we can hold']


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=6),
    max_leaves=30,
)


CONTROLS = {chr(code) for code in (*range(32), 127)} - set("\t\n\r")


def _within(value, most):
    match value:
        case str():
            return len(value) <= most["TEXT_MAX"] and not any(
                (c < " " and c not in "\t\n\r") or c == "\x7f" for c in value
            )
        case list():
            return len(value) <= most["ITEMS_MAX"] and all(_within(one, most) for one in value)
        case dict():
            sized = len(value) <= most["ENTRIES_MAX"] and all(
                len(key) <= most["KEY_MAX"] and _within(key, {**most, "TEXT_MAX": 10**6}) for key in value
            )
            return sized and all(_within(one, most) for one in value.values())
        case _:
            return True


@given(PLAIN, st.fixed_dictionaries({n: st.integers(1, 5) for n in ("ITEMS_MAX", "ENTRIES_MAX", "KEY_MAX")}))
def test_nothing_too_large_passes(value, most):
    """Whatever the tree: it passes exactly when each of its lists, objects, keys and texts is within its limit."""
    most["TEXT_MAX"] = 40
    with pytest.MonkeyPatch.context() as patch:
        for name, number in most.items():
            patch.setattr(f"shared.model.sizes.{name}", number)
        found = oversized(from_plain(value))
    assert (found == ()) == _within(value, most)
    json.dumps([shape.path for shape in found])


def test_logs_hold_what_the_door_refuses():
    """What was written before there were limits is folded, can be written anew by an undo, and read."""
    large = mes("web")
    sans = tuple(SubjectAltName(value="x") for _ in range(limits.ITEMS_MAX + 1))
    endpoints = tuple(Endpoint(address=f"h{n}.example.com", port=1) for n in range(limits.ITEMS_MAX + 1))
    spec = replace(large.spec, endpoints=endpoints, tls=ExternalTls(verification=Verification(subject_alt_names=sans)))
    large = replace(large, spec=spec)
    log = LogBuilder(GLOBAL)
    log.append(applied(mesh()), applied(large))
    (key,) = log.state.kinds["MeshExternalService"]
    assert decode_event(encode_event(log.events[-1])).change == log.events[-1].change
    written = decide_write([Apply(log.state.resources[key].resource)], log.state)
    assert isinstance(written, Decision)
    assert [one.outcome for one in written.results] == ["unchanged"]
