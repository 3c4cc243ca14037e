"""Which hostnames a service asks for: selectors and templates of HostnameGenerators (decisions 16, 17)."""

from __future__ import annotations

from immutables import Map

from shared.model.resource import (
    DISPLAY_NAME_LABEL,
    ORIGIN_LABEL,
    ZONE_LABEL,
    HostnameGenerator,
    HostnameGeneratorSpec,
    HostnameSelector,
    Labels,
    LabelSelector,
    MeshExternalService,
)
from shared.naming.template import TemplateFault, TemplateValues, parse_template, render

NAMESPACE_LABEL = "k8s.kuma.io/namespace"
DEFAULT_TEMPLATE = "{{ .DisplayName }}.extsvc.mesh.local"


def selects(generator: HostnameGenerator, labels: Labels) -> bool:
    """Whether a generator selects a MeshExternalService with these labels; an empty selector selects all."""
    selector = generator.spec.selector.mesh_external_service
    return selector is not None and all(labels.get(name) == value for name, value in selector.match_labels.items())


def hostname_for(generator: HostnameGenerator, service: MeshExternalService, zone: str) -> str | TemplateFault:
    """The hostname that a generator gives a service in `zone`, or why none."""
    template = parse_template(generator.spec.template)
    if isinstance(template, TemplateFault):
        return template
    labels = service.labels
    return render(
        template,
        TemplateValues(
            name=service.name,
            display_name=labels.get(DISPLAY_NAME_LABEL, service.name),
            namespace=labels.get(NAMESPACE_LABEL, ""),
            zone=labels.get(ZONE_LABEL) or zone,
            mesh=service.mesh,
            labels=labels,
        ),
    )


def default_generators(zone: str = "") -> tuple[HostnameGenerator, ...]:
    """What a control plane creates at its first start, as Kuma does; `zone` "" is global.

    Global's selects what is declared on global, the zone's what is declared in the zone.
    """
    name, origin = ("local-mesh-external-service", "zone") if zone else ("synced-mesh-external-service", "global")
    selector = HostnameSelector(mesh_external_service=LabelSelector(match_labels=Map({ORIGIN_LABEL: origin})))
    return (HostnameGenerator(name=name, spec=HostnameGeneratorSpec(selector=selector, template=DEFAULT_TEMPLATE)),)
