from __future__ import annotations

import pytest
from immutables import Map

from shared.model import manifest
from shared.model.addresses import address_fault
from shared.model.labels import CIDRS_WRITTEN, allowed_addresses, computed, label_faults
from shared.model.resource import Mesh, Zone, ZoneEgress, ZoneEgressNetworking
from shared.model.validate import NAME_1035, validate


def read(text):
    parsed = manifest.parse(text, "f")
    assert parsed.faults == ()
    return parsed.documents[0].resource


def judged(text, *allowed):
    return [(v.path, v.reason) for v in validate(read(text), allowed)]


def service(spec="", endpoints="[{address: example.com, port: 443}]", name="web"):
    return (
        f"type: MeshExternalService\nname: {name}\nspec: {{match: {{port: 80}}, endpoints: {endpoints}"
        f"{', ' + spec if spec else ''}}}\n"
    )


def mesh(rest, name="m"):
    return f"type: Mesh\nname: {name}\n{rest}\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mes.http", NAME_1035),
        ("1mes", NAME_1035),
        ("mes_1", NAME_1035),
        ("m" * 64, "must be no more than 63 characters"),
        ("M" * 64, f"must be no more than 63 characters, {NAME_1035}"),
        ("m" * 63, None),
    ],
)
def test_names_are_rfc_1035(name, reason):
    """MeshExternalService, Mesh, Zone and HostnameGenerator have RFC 1035 names, with Kuma's sentences."""
    expected = [] if reason is None else [("name", reason)]
    assert judged(service(name=name)) == expected
    assert judged(mesh("", name)) == expected
    assert judged(f"type: Zone\nname: {name}\n") == expected


def test_a_secret_may_be_named_123():
    """Decision 11: other kinds keep Kuma's rule."""
    assert judged('type: Secret\nname: "123"\ndata: YQ==\n') == []


@pytest.mark.parametrize(
    ("endpoint", "violations"),
    [
        ("{address: unix:///tmp/example.sock}", []),
        ("{address: unix:///tmp/x, port: 80}", [("port", "must not be defined when endpoint is a unix path")]),
        (
            "{address: 'unix://'}",
            [("address", "address has to be a valid IP or hostname or a unix path (unix:///path)")],
        ),
        (
            "{address: unix:relative}",
            [("address", "address has to be a valid IP or hostname or a unix path (unix:///path)")],
        ),
        (f"{{address: 'unix:///{'a' * 120}'}}", [("address", "a unix path must be no more than 107 bytes")]),
        *(
            (f"{{address: '{path}'}}", [("address", "a unix path must be printable and without ., .. or empty parts")])
            for path in ("unix:///a/../b", "unix:///a/./b", "unix:////a", "unix:///a/", "unix:///a\u200b")
        ),
        ("{address: 'unix:///a b/.hidden'}", []),
        ("{address: 1.1.1.1, port: 1}", []),
        ("{address: '2001:db8::1', port: 1}", []),
        ("{address: UPPER_case.Example.com., port: 1}", []),
        ("{address: 1.1.1.1}", [("port", "must be defined when endpoint is an IP")]),
        ("{address: example.com}", [("port", "must be defined when endpoint is a hostname")]),
        (
            "{address: '*.example.com', port: 1}",
            [("address", "address has to be a valid IP or hostname or a unix path")],
        ),
        ("{address: 'http://x', port: 1}", [("address", "address has to be a valid IP or hostname or a unix path")]),
        ("{address: '', port: 1}", [("address", "address has to be a valid IP or hostname or a unix path")]),
        ("{address: '127.1', port: 1}", [("address", "address has to be a valid IP or hostname or a unix path")]),
        ("{address: '0x7f000001', port: 1}", [("address", "address has to be a valid IP or hostname or a unix path")]),
    ],
)
def test_endpoints(endpoint, violations):
    """Addresses are IPs, DNS names or unix paths; a port belongs to the first two only (decision 1)."""
    assert judged(service(endpoints=f"[{endpoint}]")) == [(f"spec.endpoints[0].{p}", r) for p, r in violations]


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("localhost", "loopback"),
        ("a.LOCALHOST.", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("242.0.0.7", "a VIP range"),
        ("224.0.0.1", "multicast"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("2002:7f00:1::", "loopback"),
    ],
)
def test_dangerous_addresses_are_refused(address, what):
    """Decision 13: loopback, link-local and VIP ranges are refused unless their range is allowed."""
    text = service(endpoints=f"[{{address: '{address}', port: 80}}]")
    ((path, reason),) = judged(text)
    assert path == "spec.endpoints[0].address"
    assert reason.startswith(f"{what} is refused")
    assert judged(text, "0.0.0.0/0", "::/0") == []


@pytest.mark.parametrize("name", ["0x7f.1", "0X7F000001", "127.1", "1.2.3.4.", "a.0x1", ".".join(["aa"] * 120)])
def test_what_is_no_name_for_every_resolver_is_none(name):
    """A text that some resolver reads as an address, or that is longer than DNS and Envoy's SNI allow, is no name."""
    assert [path for path, _ in judged(service(endpoints=f"[{{address: '{name}', port: 80}}]"))] == [
        "spec.endpoints[0].address"
    ]
    ((path, _),) = judged(service(f"tls: {{verification: {{serverName: '{name}'}}}}"))
    assert path == "spec.tls.verification.serverName"


@pytest.mark.parametrize(
    "source",
    [
        "inlineString: '-----BEGIN CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----'",
        "inline: LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t",
        "inlineString: LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t",
    ],
)
@pytest.mark.parametrize("name", ["clientCert", "caCert"])
def test_a_key_beside_a_certificate_does_not_reach_the_log(name, source):
    """Certificates stand in clear in the log; one file with certificate and key must not get there."""
    key = ", clientKey: {secret: a}" if name == "clientCert" else ""
    ((path, reason),) = judged(service(f"tls: {{verification: {{{name}: {{{source}}}{key}}}}}"))
    assert path == f"spec.tls.verification.{name}"
    assert "private key" in reason


def test_reserved_ranges_are_refused():
    """The VIP range in use is refused although it is not Kuma's default."""
    resource = read(service(endpoints="[{address: 10.9.0.1, port: 80}]"))
    assert validate(resource, (), ("10.9.0.0/16",)) != ()
    assert validate(resource, (), ("10.8.0.0/16",)) == ()


def test_endpoints_are_needed_without_extension():
    """Decision 10; with an extension neither endpoints nor TLS are looked at, but data sources are."""
    assert judged(service(endpoints="[]")) == [("spec.endpoints", "must not be empty unless extension is set")]
    tls = "tls: {version: {min: TLS13, max: TLS10}, verification: {caCert: {inline: '?'}}}"
    assert judged(service(f"extension: {{type: ''}}, {tls}", endpoints="[]")) == [
        ("spec.tls.verification.caCert.inline", "must be base64"),
        ("spec.extension.type", "must not be empty"),
    ]


@pytest.mark.parametrize(
    ("tls", "path", "reason"),
    [
        ("version: {min: TLS13, max: TLS12}", "version.min", "min version must be lower than max"),
        ("verification: {serverName: 1.1.1.1}", "verification.serverName", "must be a valid DNS name"),
        (
            "verification: {clientCert: {secret: a}}",
            "verification.clientKey",
            "must be defined when clientCert is defined",
        ),
        (
            "verification: {clientKey: {secret: a}}",
            "verification.clientCert",
            "must be defined when clientKey is defined",
        ),
        (
            "verification: {caCert: {}}",
            "verification.caCert",
            "exactly one of secret, inline, inlineString must be defined",
        ),
        ("verification: {caCert: {secret: ''}}", "verification.caCert.secret", "must be defined"),
        ("verification: {caCert: {inlineString: ''}}", "verification.caCert.inlineString", "must be defined"),
        ("verification: {caCert: {inline: 'YQ'}}", "verification.caCert.inline", "must be base64"),
        (
            "verification: {subjectAltNames: [{value: ''}]}",
            "verification.subjectAltNames[0].value",
            "must not be empty",
        ),
    ],
)
def test_tls(tls, path, reason):
    """TLS settings are held to Kuma's rules."""
    assert judged(service(f"tls: {{{tls}}}")) == [(f"spec.tls.{path}", reason)]


@pytest.mark.parametrize("version", ["min: TLS12, max: TLS12", "min: TLS13, max: TLSAuto", "min: TLSAuto, max: TLS10"])
def test_equal_or_automatic_versions_are_fine(version):
    """Only two concrete versions in the wrong order are refused."""
    assert judged(service(f"tls: {{version: {{{version}}}}}")) == []


@pytest.mark.parametrize(
    ("rest", "path", "reason"),
    [
        (
            "mtls: {backends: [{name: a, type: builtin}, {name: b, type: builtin}]}",
            "mtls.backends",
            "cannot have more than 1 backends",
        ),
        ("mtls: {enabledBackend: x}", "mtls.enabledBackend", "has to be set to one of the backends in the mesh"),
        (
            "mtls: {backends: [{name: a, type: provided}]}",
            "mtls.backends[0].type",
            "provided is not supported yet: only builtin is",
        ),
        (
            "mtls: {backends: [{name: a, type: vault}]}",
            "mtls.backends[0].type",
            "could not find installed plugin for this type",
        ),
        (
            "mtls: {backends: [{name: a, type: builtin, dpCert: {rotation: {expiration: soon}}}]}",
            "mtls.dpcert.rotation.expiration",
            "has to be a valid format",
        ),
        ("routing: {zoneEgress: true}", "mtls", "has to be set when zoneEgress enabled"),
        ("labels: {zonal.io/mes-origination: x}", 'labels["zonal.io/mes-origination"]', "must be sidecar or egress"),
        *(
            (
                f"labels: {{zonal.io/allow-addresses{more}: {value}}}",
                f'labels["zonal.io/allow-addresses{more}"]',
                f'"{read}" is not a CIDR: ranges are written {CIDRS_WRITTEN}',
            )
            for more, value, read in (
                ("", "x", "x"),
                ("-2", "fd00.._129", "fd00::/129"),
                ("", "10.0.0.0_8-1.2.3", "1.2.3"),
                ("", "fd00..1..2", "fd00::1::2"),
                ("", "1.2.3.4.5.6.7.8.9", "1.2.3.4.5.6.7.8.9"),
            )
        ),
    ],
)
def test_mesh(rest, path, reason):
    """A Mesh is held to the rules of Kuma 2.14 and to ours."""
    assert judged(mesh(rest)) == [(path, reason)]


def test_duplicate_backends():
    """Two backends of one name are named as such."""
    found = judged(mesh("mtls: {backends: [{name: a, type: builtin}, {name: a, type: builtin}]}"))
    assert ("mtls.backends[1].name", '"a" name is already used for another backend') in found


@pytest.mark.parametrize("expiration", ["24h", "1d", "0", "500ms", "2y", "30m"])
def test_expirations(expiration):
    """Kuma's duration texts are accepted."""
    text = f"mtls: {{backends: [{{name: a, type: builtin, dpCert: {{rotation: {{expiration: '{expiration}'}}}}}}]}}"
    assert judged(mesh(text)) == []


def generator(template="{{ .Name }}.mesh", selector="meshExternalService: {}"):
    return f"type: HostnameGenerator\nname: g\nspec: {{selector: {{{selector}}}, template: '{template}'}}\n"


@pytest.mark.parametrize(
    "template",
    ["{{ .Name[4 }}.mesh", "{{ .Name }}.MESH", ".{{ .Name }}.mesh", "{{ .Name }}..mesh", "{{ .Name }}_svc.mesh", ""],
)
def test_refused_templates(template):
    """The templates that Kuma's tests refuse are refused."""
    ((path, _),) = judged(generator(template))
    assert path == "spec.template"


def test_selector_of_a_generator():
    """Exactly one selector; an empty object counts as present."""
    assert judged(generator()) == []
    reason = "exact one selector (meshService, meshExternalService) must be defined"
    assert judged(generator(selector="")) == [("spec.selector", reason)]
    assert judged(generator(selector="meshService: {}, meshExternalService: {}")) == [("spec.selector", reason)]


def test_labels_are_kubernetes_syntax():
    """Keys and values of labels are checked, keys in sorted order."""
    found = judged(mesh('labels: {"b c": x, a/b/c: x, ok/x: "no way", fine: ""}'))
    assert [path for path, _ in found] == ['labels["a/b/c"]', 'labels["b c"]', 'labels["ok/x"]']


def test_dataplane_rules():
    """Inbounds name their service; an outbound has a backendRef by name or labels, or legacy tags."""
    text = (
        "type: Dataplane\nname: d\nnetworking:\n  address: 10.0.0.1\n  inbound: [{port: 80, tags: {}}]\n  outbound:\n"
        "    - {port: 1}\n    - {port: 2, backendRef: {kind: MeshExternalService}}\n"
        "    - {port: 3, tags: {kuma.io/service: x}}\n"
    )
    assert judged(text) == [
        ('networking.inbound[0].tags["kuma.io/service"]', "tag has to exist"),
        ("networking.outbound[0].backendRef", "must be defined"),
        ("networking.outbound[1].backendRef", "either 'name' or 'labels' should be specified"),
    ]


@pytest.mark.parametrize("value", ["a b", "a/../b", "bü", "a\\nb", "*", "a,b"])
def test_tags_are_what_identities_can_be_made_of(value):
    """`kuma.io/service` becomes a SPIFFE id and a hostname: Kuma's characters, on Dataplanes and ExternalServices."""
    tags = f'tags: {{kuma.io/service: "{value}"}}'
    reason = "tag value must consist of alphanumeric characters, dots, dashes and underscores"
    proxy = f"type: Dataplane\nname: d\nnetworking: {{address: 10.0.0.1, inbound: [{{port: 80, {tags}}}]}}\n"
    assert judged(proxy) == [('networking.inbound[0].tags["kuma.io/service"]', reason)]
    outside = f"type: ExternalService\nname: e\n{tags}\nnetworking: {{address: 'a.test:80'}}\n"
    assert judged(outside) == [('tags["kuma.io/service"]', reason)]
    assert judged(proxy.replace(f'"{value}"', '"Web_1.a-b:c"')) == []


def test_computed_labels_are_forced():
    """Decision 18: origin, display name, mesh, zone and environment are ours; the rest is the author's."""
    resource = read(service() + "labels: {kuma.io/display-name: mine, team: a, kuma.io/zone: west}\n")
    assert computed(resource, "").labels == Map(
        {
            "kuma.io/display-name": "web",
            "kuma.io/mesh": "default",
            "kuma.io/origin": "global",
            "kuma.io/zone": "west",
            "team": "a",
        }
    )
    assert computed(resource, "east").labels == Map(
        {
            "kuma.io/display-name": "web",
            "kuma.io/env": "universal",
            "kuma.io/mesh": "default",
            "kuma.io/origin": "zone",
            "kuma.io/zone": "east",
            "team": "a",
        }
    )
    assert "kuma.io/mesh" not in computed(Zone(name="east"), "").labels
    egress = ZoneEgress(name="e", networking=ZoneEgressNetworking(address="10.0.0.1", port=1))
    assert computed(egress, "east").zone == "east"
    assert computed(computed(resource, "east"), "east") == computed(resource, "east")


@pytest.mark.parametrize("value", ["::1/128", "..1_128", "10.0.0.0/8"])
def test_a_range_that_no_label_can_hold_says_how_it_is_written(value):
    """Beside Kuma's sentence on labels."""
    found = judged(mesh(f'labels: {{zonal.io/allow-addresses: "{value}"}}'))
    assert any(reason.endswith(f"ranges are written {CIDRS_WRITTEN}") for _, reason in found), found


def test_allowed_addresses_of_a_mesh():
    """The label lists CIDRs within the syntax of label values."""
    resource = Mesh(name="m", labels=Map({"zonal.io/allow-addresses": "127.0.0.0_24-10.0.0.0_8"}))
    assert allowed_addresses(resource) == ("127.0.0.0/24", "10.0.0.0/8")
    labels = {
        "zonal.io/allow-addresses": "0..1_128-fe80.0.0.0.0.0.0.0_10-127.0.0.1",
        "zonal.io/allow-addresses-2": "fd00.._8",
    }
    assert label_faults(Map(labels)) == ()
    six = Mesh(name="m", labels=Map(labels | {"zonal.io/allow-addresses2": "no"}))
    assert allowed_addresses(six) == ("0::1/128", "fe80:0:0:0:0:0:0:0/10", "127.0.0.1", "fd00::/8")
    assert address_fault("::1", allowed_addresses(six)) is None
    assert address_fault("fe80::7", allowed_addresses(six)) is None
    assert address_fault("ff02::1", allowed_addresses(six)) is not None
    assert allowed_addresses(Mesh(name="m")) == ()
    assert allowed_addresses(None) == ()


@pytest.mark.parametrize(
    ("probe", "faults"),
    [
        ("{tcp: {}}", []),
        ("{tcp: {}, interval: 100ms, timeout: 2s, unhealthyThreshold: 3, healthyThreshold: 1}", []),
        ("{}", [("tcp", "must be defined")]),
        ("{tcp: {}, interval: 10ms}", [("interval", "must be at least 100ms")]),
        ("{tcp: {}, interval: 0s}", [("interval", "must be greater than zero when defined")]),
        ("{tcp: {}, timeout: soon}", [("timeout", 'time: invalid duration "soon"')]),
        ("{tcp: {}, healthyThreshold: 0}", [("healthyThreshold", "must be greater than 0")]),
    ],
)
def test_service_probe(probe, faults):
    text = (
        "type: Dataplane\nname: web\nnetworking:\n  address: 127.0.0.1\n"
        f"  inbound: [{{port: 80, tags: {{kuma.io/service: web}}, serviceProbe: {probe}}}]\n"
    )
    assert judged(text) == [(f"networking.inbound[0].serviceProbe.{field}", reason) for field, reason in faults]
