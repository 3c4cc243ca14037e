from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.demo import manifests
from shared.model import manifest
from shared.model.resource import Dataplane, DataSource, HostnameGenerator, Mesh, MeshExternalService, Secret
from shared.model.validate import validate

SEED = """\
apiVersion: kuma.io/v1alpha1
kind: MeshExternalService
metadata:
  name: database
  namespace: kuma-system
  labels:
    kuma.io/mesh: shop
spec:
  match:
    type: HostnameGenerator
    port: 5432
    protocol: tcp
  endpoints:
    - address: postgres.external.example.com
      port: 5432
    - address: unix:///tmp/example.sock
  tls:
    enabled: true
    version:
      min: TLS12
      max: TLS13
    allowRenegotiation: false
    verification:
      mode: SkipCA
      serverName: "example.com"
      subjectAltNames:
        - type: Exact
          value: example.com
        - type: Prefix
          value: "spiffe://example.local/ns/local"
      caCert:
        inline: dGVzdA==
      clientCert:
        secret: "123"
      clientKey:
        secret: "456"
"""
SEEDS = Path(__file__).parents[3] / "shared" / "seeds"


def only(text):
    parsed = manifest.parse(text, "f.yaml")
    assert parsed.faults == ()
    (document,) = parsed.documents
    return document.resource


def told(text):
    return [str(fault) for fault in manifest.parse(text, "f.yaml").faults]


def service(verification="", match="port: 80"):
    return f"""\
type: MeshExternalService
name: web
spec:
  match: {{{match}}}
  endpoints: [{{address: example.com, port: 443}}]
  tls:
    enabled: true
    verification: {{{verification}}}
"""


def test_kubernetes_and_universal_form_are_the_same_resource():
    """Both YAML forms of seed 000 give one canonical resource; the mesh comes from the label."""
    universal = SEED.replace(
        """\
apiVersion: kuma.io/v1alpha1
kind: MeshExternalService
metadata:
  name: database
  namespace: kuma-system
  labels:
    kuma.io/mesh: shop
""",
        "type: MeshExternalService\nname: database\nmesh: shop\nlabels: {kuma.io/mesh: shop}\n",
    )
    resource = only(SEED)
    assert isinstance(resource, MeshExternalService)
    assert resource == only(universal)
    assert resource.mesh == "shop"


def test_old_top_level_mesh_of_kubernetes_form():
    """The old `mesh:` beside `metadata` (seed 002) is read as well."""
    text = SEED.replace("kind: MeshExternalService\n", "kind: MeshExternalService\nmesh: other\n")
    assert only(text).mesh == "other"


def test_old_kinds_in_kubernetes_form():
    """Kinds without `spec` in Universal form have one in Kubernetes form; faults name the path as written."""
    mesh = only(
        "apiVersion: kuma.io/v1alpha1\nkind: Mesh\nmetadata: {name: default}\n"
        "spec: {routing: {defaultForbidMeshExternalServiceAccess: true}}"
    )
    assert isinstance(mesh, Mesh)
    assert mesh.routing.default_forbid_mesh_external_service_access
    assert told(
        "apiVersion: kuma.io/v1alpha1\nkind: Mesh\nmetadata: {name: default}\nspec:\n  routing: {zoneEgress: 1}"
    ) == ["f.yaml:5:25: spec.routing.zoneEgress: must be true or false, not the number 1"]


def test_kubernetes_form_of_a_secret():
    """A Kubernetes Secret of type system.kuma.io/secret is a Kuma secret of the labelled mesh."""
    text = (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: ca, namespace: kuma-system, labels: {kuma.io/mesh: shop}}\n"
        "data: {value: YQ==}\ntype: system.kuma.io/secret\n"
    )
    resource = only(text)
    assert isinstance(resource, Secret)
    assert (resource.mesh, resource.data) == ("shop", "YQ==")
    assert told(text.replace("system.kuma.io/secret", "Opaque")) == ["f.yaml:5:7: type: must be system.kuma.io/secret"]


def test_mesh_of_a_global_kind_is_without_effect():
    """Seed 001 writes `mesh: default` on a HostnameGenerator: accepted, as Kuma does."""
    text = (
        "type: HostnameGenerator\nname: example\nmesh: default\nspec:\n  selector: {meshExternalService: {}}\n"
        '  template: "{{ .DisplayName }}.svc.meshext.local"\n'
    )
    assert isinstance(only(text), HostnameGenerator)


def test_dataplane_of_the_seed():
    """The Dataplane of seed 001, as it is passed to a proxy."""
    resource = only("""\
type: Dataplane
mesh: default
name: example
networking:
  address: 127.0.0.1
  inbound:
    - port: 16379
      servicePort: 26379
      serviceAddress: 127.0.0.1
      tags:
        kuma.io/service: example
        kuma.io/protocol: tcp
  outbound:
    - port: 8080
      backendRef:
        kind: MeshExternalService
        name: mes-http
  admin:
    port: 9901
""")
    assert isinstance(resource, Dataplane)
    assert resource.networking.inbound[0].tags["kuma.io/protocol"] == "tcp"


def test_demo_faults_stand_at_their_lines():
    """A wrong field, a wrong type and a bad port are each refused at file:line:column with path and reason."""
    assert told(manifests.BAD) == [
        "f.yaml:7:5: spec.match.protokol: unknown field, known are port, protocol, type",
        "f.yaml:17:11: spec.match.port: must be a whole number, not text",
        "f.yaml:30:13: spec.endpoints[0].port: port must be a valid (1-65535)",
    ]


def test_all_faults_of_a_document_are_told():
    """One reading tells everything that is wrong with a document."""
    text = """\
type: MeshExternalService
name: 010
nme: x
spec:
  match: {port: 0, protocol: udp, type: Foo}
  endpoints:
    - {port: 99999, priority: 129}
  tls:
    version: {min: TLS9}
    verification: {mode: no, subjectAltNames: [{type: Regex}]}
"""
    assert told(text) == [
        "f.yaml:2:7: name: must be text, not the number 10: quote it",
        "f.yaml:3:1: nme: unknown field, known are labels, mesh, name, spec",
        "f.yaml:5:17: spec.match.port: port must be a valid (1-65535)",
        'f.yaml:5:30: spec.match.protocol: "protocol" must be one of ["tcp", "grpc", "http", "http2"]',
        "f.yaml:5:41: spec.match.type: unrecognized type 'Foo' - only 'HostnameGenerator' is supported",
        "f.yaml:7:7: spec.endpoints[0].address: must be defined",
        "f.yaml:7:14: spec.endpoints[0].port: port must be a valid (1-65535)",
        "f.yaml:7:31: spec.endpoints[0].priority: must be between 0 and 128",
        'f.yaml:9:20: spec.tls.version.min: "min" must be one of ["TLSAuto", "TLS10", "TLS11", "TLS12", "TLS13"]',
        'f.yaml:10:26: spec.tls.verification.mode: "mode" must be one of ["SkipSAN", "SkipCA", "SkipAll", "Secured"]',
        "f.yaml:10:48: spec.tls.verification.subjectAltNames[0].value: must be defined",
        'f.yaml:10:55: spec.tls.verification.subjectAltNames[0].type: "type" must be one of ["Prefix", "Exact"]',
    ]


def test_good_documents_survive_bad_ones():
    """Documents are judged apart: what can be read is returned beside the faults of the rest."""
    parsed = manifest.parse("type: Zone\nname: east\n---\ntype: Zone\n---\n---\ntype: Zoo\nname: x\n", "f.yaml")
    assert [document.resource.name for document in parsed.documents] == ["east"]
    assert [(fault.line, fault.path) for fault in parsed.faults] == [(4, "name"), (7, "type")]


@pytest.mark.parametrize(
    ("source", "canonical"),
    [
        ("inline: YQ==", DataSource(inline="YQ==")),
        ("inlineString: text", DataSource(inline_string="text")),
        ("secret: x", DataSource(secret="x")),
        ("type: Secret, secretRef: {kind: Secret, name: x}", DataSource(secret="x")),
        ("type: InsecureInline, insecureInline: {value: text}", DataSource(inline_string="text")),
    ],
)
def test_both_shapes_of_data_source_become_one(source, canonical):
    """The flat shape of 2.14 and the discriminated one of 3.0 are stored alike (decision 12)."""
    assert only(service(f"caCert: {{{source}}}")).spec.tls.verification.ca_cert == canonical


@pytest.mark.parametrize(
    ("source", "path", "reason"),
    [
        ("file: /etc/ca.pem", "file", "must not read the control plane's host"),
        ("envVar: CA", "envVar", "must not read the control plane's host"),
        ("type: File, file: {path: /x}", "type", "File must be one of: Secret, InsecureInline"),
        ("type: EnvVar, envVar: {name: X}", "type", "EnvVar must be one of: Secret, InsecureInline"),
        ("type: Vault, vault: {}", "type", "Vault must be one of: EnvVar, InsecureInline, File, Secret"),
        ("secretRef: {kind: Secret, name: a}", "type", "must be one of: EnvVar, InsecureInline, File, Secret"),
        ("type: Secret", "secretRef", "must be defined"),
        ("type: Secret, secretRef: {kind: ConfigMap, name: x}", "secretRef.kind", "ConfigMap must be one of: Secret"),
        ("type: Secret, secretRef: {kind: Secret, name: ''}", "secretRef.name", "must be defined"),
        ("type: InsecureInline", "insecureInline", "must be defined"),
        ("type: InsecureInline, insecureInline: {value: ''}", "insecureInline.value", "must be defined"),
        ("sealed: {kid: a, nonce: b, ciphertext: c, digest: d}", "sealed", "unknown field"),
    ],
)
def test_refused_data_sources(source, path, reason):
    """Data sources that read the control plane's host, lack their object or bring ciphertext are refused."""
    faults = manifest.parse(service(f"caCert: {{{source}}}"), "f").faults
    assert any(f.path == f"spec.tls.verification.caCert.{path}" and reason in f.reason for f in faults), faults


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("type: Zone\nname: [\n", 3, "not valid YAML"),
        ("type: Zone\ntype: Zone\nname: a\n", 2, 'the key "type" is given twice'),
        ("[" * 100_000, 1, "nested deeper than 32 levels"),
        ("!!python/object:os.system {}", 1, "is not supported"),
        ("a: &a [*a]", 1, 'unknown alias "a"'),
        ("just text", 1, "must be an object"),
        ("a: \x00", 1, "not valid YAML"),
        ("# " + "x" * 4 * 1024 * 1024, 1, "larger than"),
    ],
)
def test_what_is_no_manifest(text, line, reason):
    """Text that is not the YAML we take has one fault with its place."""
    (fault,) = manifest.parse(text, "f").faults
    assert fault.line == line
    assert reason in fault.reason


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("apiVersion: kuma.io/v1alpha1\nkind: MeshGatewayInstance\n", (2, "kind"), "Run `zonal proxy gateway`"),
        ("type: TrafficRoute\nname: a\nmesh: default\n", (1, "type"), "use MeshHTTPRoute or MeshTCPRoute"),
        ("type: Nope\nname: a\n", (1, "type"), "known are Dataplane, "),
    ],
)
def test_a_kind_that_is_not_here_is_told_with_what_is(text, place, says):
    """Those of Kuma with what does their work."""
    (fault,) = manifest.parse(text, "f").faults
    assert (fault.line, fault.path) == place
    assert says in fault.reason


def test_aliases_are_followed_but_bounded():
    """Anchors work; a tower of them is cut off before it costs memory."""
    assert only("type: Mesh\nname: &n m\nlabels: {a: *n}\n").labels["a"] == "m"
    tower = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
    )
    (fault,) = manifest.parse(tower, "f").faults
    assert "once aliases are followed" in fault.reason


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "1:30", "0777x", "1_000"])
def test_scalars_are_yaml_1_2(word):
    """Words that YAML 1.1 reads as something else are text."""
    assert only(f"type: Mesh\nname: m\nlabels: {{a: {word}}}\n").labels["a"] == word


def test_null_of_an_optional_field_is_absence():
    """`tls:` with nothing behind it is no `tls`."""
    text = "type: MeshExternalService\nname: web\nlabels:\nspec:\n  match: {port: 80}\n  endpoints:\n  tls:\n"
    assert only(text).spec.endpoints == ()


def test_echoed_fields_are_ignored():
    """What clients echo back (status, times) is not an unknown field."""
    text = "type: Zone\nname: east\ncreationTime: 2020-01-01T00:00:00Z\nstatus: {vip: {}}\nkri: x\nversion: 3\n"
    assert only(text).name == "east"


def test_violations_find_their_line():
    """A semantic violation at a canonical path is shown where the user wrote it, or at the nearest parent."""
    (document,) = manifest.parse(SEED, "f.yaml").documents
    assert str(document.fault("spec.endpoints[1].port", "no")) == "f.yaml:16:7: spec.endpoints[1].port: no"
    assert str(document.fault("name", "no")) == "f.yaml:4:9: metadata.name: no"
    assert str(document.fault("mesh", "no")) == 'f.yaml:7:19: metadata.labels["kuma.io/mesh"]: no'


def test_values_in_the_wrong_place_are_not_repeated():
    """A secret written into the wrong field does not come back in the message."""
    assert "hunter2" not in "".join(told("type: Secret\nname: x\ndata: {a: hunter2}\nlabels: hunter2\n"))


@given(st.text(max_size=200))
def test_any_text_is_answered(text):
    """No text makes the parser fail in any other way than with faults."""
    manifest.parse(text, "f")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "spec", "name", "mesh", "tls", "verification", "caCert", "secretRef", "labels"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["MeshExternalService", "Mesh", "Secret", "Dataplane"]),
)
def test_any_json_is_answered(value, kind):
    """No JSON body makes the reader fail in any other way than with faults."""
    body = value if not isinstance(value, dict) else {"type": kind, **value}
    parsed = manifest.parse_plain(body)
    assert parsed.documents or parsed.faults or value == []


WANTED = re.compile(
    r"(apiVersion: kuma.io/v1alpha1\nkind|type): (MeshExternalService|HostnameGenerator|Mesh|Dataplane)\n"
)
TOP = re.compile(r"(kind|metadata|spec|name|mesh|labels|networking|routing|mtls|type|apiVersion):")


def manifests_of(page: str) -> list[str]:
    """Runs of lines that stand like a manifest: from its first key on, as long as keys or indented lines follow."""
    found: list[list[str]] = []
    inside = False
    for line in page.splitlines():
        if re.match(r"(apiVersion: |type: [A-Z])", line):
            found.append([line])
            inside = True
        elif inside and (line.startswith(("  ", "- ")) or TOP.match(line)):
            # The seeds' shell command closes its quote behind the last line.
            found[-1].append(line.removesuffix('01"') + "01" if line.endswith('9901"') else line)
        else:
            inside = False
    return [text for lines in found if WANTED.match(text := "\n".join(lines) + "\n")]


@pytest.mark.skipif(not SEEDS.is_dir(), reason="the seeds stand beside the repository, not in it")
def test_every_manifest_of_the_seeds_parses():
    """All MeshExternalServices, HostnameGenerators, Meshes and Dataplanes of the seed pages are accepted whole."""
    count = 0
    for path in sorted(SEEDS.glob("*.txt")):
        for text in manifests_of(path.read_text()):
            parsed = manifest.parse(text, path.name)
            assert parsed.faults == (), text
            for document in parsed.documents:
                assert validate(document.resource) == (), text
                count += 1
    assert count >= 50
