"""Every YAML example of the seeds stands in tests/e2e/seeds, unchanged, and is accepted."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path

import pytest

from shared.model import manifest
from shared.model.gateway import MeshGateway
from shared.model.validate import validate

PAGES = Path(__file__).parents[2] / "shared" / "seeds"
"""The pages stand beside the repository; without them the index of hashes tells what must be there."""
EXAMPLES = Path(__file__).parent / "e2e" / "seeds"
INDEX = EXAMPLES / "index.json"
"""SHA-256 of every example, by the pages it stands on. It is written from the pages, and checked against both."""

KINDS = "MeshExternalService|ExternalService|HostnameGenerator|MeshGateway|Mesh|Dataplane"
WHOLE = re.compile(rf"(apiVersion: kuma.io/v1alpha1\nkind|type): ({KINDS})\n")
FIRST = re.compile(r"(apiVersion|match|endpoints|tls|networking): ?|type: [A-Z]")
TOP = re.compile(r"(kind|metadata|spec|name|mesh|labels|tags|networking|selectors|conf|routing|mtls|type|apiVersion):")
FRAGMENT = re.compile(r"(match|endpoints|tls|networking):\n")


def examples_of(page: str) -> list[str]:
    """Runs of lines that stand like YAML: from a first key on, as long as keys or indented lines follow.

    Whole resources of the six kinds, and the fragments that explain `match`, `endpoints`, `tls` and an outbound.
    """
    found: list[list[str]] = []
    fragment = inside = False
    for line in page.splitlines():
        goes_on = line.startswith(("  ", "- ")) or (not fragment and TOP.match(line) is not None)
        if inside and goes_on and not re.match(r"apiVersion: |type: [A-Z]", line):
            # The seeds' shell command closes its quote behind the last line.
            found[-1].append(line.removesuffix('"') if line.endswith('9901"') else line)
        elif FIRST.match(line):
            fragment, inside = FRAGMENT.fullmatch(line + "\n") is not None, True
            found.append([line])
        else:
            inside = False
    texts = ["\n".join(lines) + "\n" for lines in found]
    return [text for text in texts if WHOLE.match(text) or (FRAGMENT.match(text) and text.count("\n") > 1)]


def in_the_pages() -> dict[str, list[str]]:
    """Hash of every example, with the pages it stands on."""
    found: dict[str, list[str]] = {}
    for page in sorted(PAGES.glob("*.txt")):
        for text in examples_of(page.read_text()):
            pages = found.setdefault(sha256(text.encode()).hexdigest(), [])
            if page.name[:3] not in pages:
                pages.append(page.name[:3])
    return found


def examples() -> list[Path]:
    """The files of tests/e2e/seeds."""
    return sorted(EXAMPLES.glob("*.yaml"))


@pytest.mark.skipif(not PAGES.is_dir(), reason="the seeds stand beside the repository, not in it")
def test_the_index_holds_every_example_of_the_pages() -> None:
    """What the pages show and what the index lists are the same, hash by hash."""
    assert json.loads(INDEX.read_text()) == in_the_pages()


def test_every_example_is_a_file_and_every_file_an_example() -> None:
    """An example that is missing, changed or made up fails here."""
    held = {sha256(path.read_bytes()).hexdigest(): path.name for path in examples()}
    assert set(held) == set(json.loads(INDEX.read_text()))
    assert len(held) == len(examples())


WHOLES = [path for path in examples() if not path.stem.endswith("misindented") and "fragment" not in path.stem]


@pytest.mark.parametrize("path", WHOLES, ids=lambda one: one.stem)
def test_an_example_is_accepted_whole(path: Path) -> None:
    """Both YAML forms are read without a fault and break no rule."""
    parsed = manifest.parse(path.read_text(), path.name)
    assert parsed.faults == ()
    assert [validate(one.resource) for one in parsed.documents] == [()]


def test_the_example_that_is_no_yaml_is_refused_where_it_breaks() -> None:
    """The third Kubernetes example of the MeshGateway page lacks the indentation of its tag."""
    text = (EXAMPLES / "gateway-https-misindented.yaml").read_text()
    (fault,) = manifest.parse(text, "page").faults
    assert (fault.line, fault.column) == (9, 5)
    assert text.splitlines()[fault.line - 1].strip() == "kuma.io/service: edge-gateway"
    assert fault.reason == "not valid YAML: did not find expected '-' indicator"
    mended = manifest.parse(text.replace("    kuma.io/service", "        kuma.io/service"))
    assert mended.faults == ()
    right = manifest.parse((EXAMPLES / "gateway-https-universal.yaml").read_text())
    assert _body(mended.documents[0].resource) == _body(right.documents[0].resource)


def _body(resource: object) -> object:
    """What both forms declare: MeshGateway has no `spec` in the Universal one."""
    if isinstance(resource, MeshGateway):
        return resource.selectors, resource.tags, resource.conf
    return getattr(resource, "spec", None) or resource


def test_the_fragments_make_a_resource_together() -> None:
    """`match`, `endpoints` and `tls` as the guide explains them are one accepted MeshExternalService."""
    spec = "".join(
        "".join(f"  {line}\n" for line in (EXAMPLES / f"fragment-{part}.yaml").read_text().splitlines())
        for part in ("match", "endpoints", "tls")
    )
    parsed = manifest.parse(f"type: MeshExternalService\nname: fragments\nmesh: default\nspec:\n{spec}")
    assert parsed.faults == ()
    assert validate(parsed.documents[0].resource) == ()


def test_both_forms_of_an_example_are_one_resource() -> None:
    """The Kubernetes and the Universal form differ in nothing but the labels that name mesh and namespace."""
    forms: dict[str, dict[str, object]] = {}
    for path in examples():
        stem, _, form = path.stem.rpartition("-")
        if form in ("kubernetes", "universal"):
            resource = manifest.parse(path.read_text()).documents[0].resource
            forms.setdefault(stem, {})[form] = _body(resource)
    assert len(forms) == 21
    assert {stem for stem, both in forms.items() if len(both) < 2} == {"gateway-https"}, "its other form is no YAML"
    for stem, both in forms.items():
        if len(both) < 2:
            continue
        assert both["kubernetes"] == both["universal"], stem
