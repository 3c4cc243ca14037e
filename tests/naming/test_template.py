"""HostnameGenerator templates (decision 17, spec 1-resources.md §2.2 and §2.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from immutables import Map

from shared.naming.template import (
    LabelPart,
    Template,
    TemplateFault,
    TemplateValues,
    dns_name_fault,
    parse_template,
    render,
)

VALUES = TemplateValues("payments", "pay", "ns", "east", "default", Map({"app": "a", "odd": "A_b"}))


def _rendered(text: str, values: TemplateValues = VALUES) -> str | TemplateFault:
    template = parse_template(text)
    assert isinstance(template, Template), template
    return render(template, values)


@pytest.mark.parametrize(
    ("text", "hostname"),
    [
        ("{{ .DisplayName }}.extsvc.mesh.local", "pay.extsvc.mesh.local"),
        ("{{.Name}}.{{ .Namespace}}.{{.Zone }}.{{  .Mesh  }}", "payments.ns.east.default"),
        ('{{ label "app" }}.mesh', "a.mesh"),
        ('{{label "app"}}-{{.Name}}.mesh', "a-payments.mesh"),
        ("static.mesh", "static.mesh"),
    ],
)
def test_variables_and_labels_are_filled_in(text: str, hostname: str) -> None:
    """All variables and `label`, with or without white space."""
    assert _rendered(text) == hostname


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{{ .Name[4 }}.mesh",
        "{{ .Name }}.MESH",
        ".{{ .Name }}.mesh",
        "{{ .Name }}..mesh",
        "{{ .Name }}_svc.mesh",
        "{{ .Secret }}.mesh",
        '{{ printf "%s" .Name }}.mesh',
        "{{ .Name | html }}.mesh",
        "{{- .Name }}.mesh",
        "{{ .Name }.mesh",
        "{{ .Name }}}}.mesh",
        '{{ label "" }}.mesh',
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    """Go's engine is not here: no pipelines, no functions, and the stub rendering must be a DNS name."""
    assert isinstance(parse_template(text), TemplateFault)


def test_a_fault_says_what_is_wrong() -> None:
    """Messages are Kuma's."""
    fault = parse_template("{{ .Name }}.MESH")
    assert isinstance(fault, TemplateFault)
    assert fault.message.startswith('template renders to "name.MESH" which is not a valid DNS name: a lowercase RFC')
    missing = _rendered('{{ label "no" }}.mesh')
    assert isinstance(missing, TemplateFault)
    assert "label no not found" in missing.message
    odd = _rendered('{{ label "odd" }}.mesh')
    assert isinstance(odd, TemplateFault)
    assert odd.message.startswith('generated hostname "A_b.mesh" is not a valid DNS name')


@pytest.mark.parametrize("name", ["localhost", "a.localhost", "1.2.3.4", "a.0x7f", "a.1", "7"])
def test_names_that_lead_elsewhere_are_no_hostnames(name: str) -> None:
    """What resolvers answer by themselves, or read as an address, is given to no service."""
    assert isinstance(parse_template(name), TemplateFault)
    rendered = render(Template("", (LabelPart("k"),)), TemplateValues(name="n", labels=Map({"k": name})))
    assert isinstance(rendered, TemplateFault)
    assert isinstance(parse_template(f"{name}.mesh"), Template)


@given(st.text(alphabet='ab-.{} "NamelbMshDipy', max_size=30))
def test_whatever_renders_is_a_dns_name(text: str) -> None:
    """No template makes a hostname that is not an RFC 1123 subdomain, and none raises."""
    template = parse_template(text)
    if isinstance(template, Template):
        hostname = render(template, VALUES)
        assert isinstance(hostname, TemplateFault) or dns_name_fault(hostname) is None


@pytest.mark.parametrize(
    ("text", "hostname", "name"),
    [
        ("{{ .Name }}.ext", "pay-1.ext", "pay-1"),
        ("svc-{{ .DisplayName }}.{{ .Zone }}.ext", "svc-pay.east.ext", "pay"),
        ("svc-{{ .DisplayName }}.ext", "other.ext", ""),
        ("{{ .Name }}-{{ .Mesh }}.ext", "a-b.ext", None),
        ('{{ label "x" }}.ext', "a.ext", None),
        ("static.ext", "static.ext", None),
    ],
)
def test_a_template_that_begins_with_the_name_is_read_backwards(text: str, hostname: str, name: str | None) -> None:
    """A freed hostname tells which services may wait for it; None where it cannot be told."""
    template = parse_template(text)
    assert isinstance(template, Template)
    assert template.name_in(hostname) == name
