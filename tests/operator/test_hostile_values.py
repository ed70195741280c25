"""Whatever people write in a resource stays a value: no command line is made of it, and no YAML."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mailrelay_operator.desired.children import desired
from mailrelay_operator.desired.manifest import Manifest
from mailrelay_operator.desired.names import Component
from mailrelay_operator.desired.pods import Container, container_environment
from mailrelay_operator.resource.relay import ResourceError, read_relay
from mailrelay_operator.resource.relay_config import relay_config
from tests.operator.relays import body, child, inputs, pod_specs, relay

pytestmark = pytest.mark.timeout(300)  # schemas and YAML take a while on a busy machine

MARK = "zqx"
HOSTILE = (
    f"{MARK}$(MAILRELAY_NATS_URL) `id` $(id) {{{{ .Values }}}} \"'\\\n---\nkind: Pod #é\u2028 % :"
)

# Every text of a resource that has no pattern of its own.
FREE: dict[str, Any] = {
    "ingress": {
        "service": {
            "type": "LoadBalancer",
            "annotations": {"a": HOSTILE},
            "loadBalancerClass": HOSTILE,
        },
        "tls": {"issuerRef": {"name": "i", "group": HOSTILE}},
        "pods": {
            "annotations": {"a": HOSTILE},
            "labels": {"a": HOSTILE},
            "nodeSelector": {"a": HOSTILE},
            "tolerations": [{"key": HOSTILE, "value": HOSTILE}],
            "topologySpreadConstraints": [{"topologyKey": HOSTILE}],
            "affinity": {"nodeAffinity": {HOSTILE: [HOSTILE]}},
        },
    },
    "monitor": {"podMonitor": {"labels": {"a": HOSTILE}}},
}


def texts(node: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a manifest, keys included, with where it stands."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{path}.", key
            yield from texts(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from texts(value, f"{path}[]")
    elif isinstance(node, str):
        yield path, node


def test_a_hostile_value_is_in_a_manifest_as_it_is_and_nowhere_a_part_of_something_else() -> None:
    found = set()
    for each in desired(relay(FREE), inputs()):
        for path, text in texts(each):
            if MARK in text:
                assert text == HOSTILE, path
                assert not path.endswith((".args[]", ".command[]")), path
                found.add(path)
    assert len(found) > 10


def test_what_looks_like_a_variable_in_an_environment_is_none() -> None:
    """No text of a resource that gets there has a `$` today; the pods do not rely on it."""
    (variable,) = container_environment(
        Container(Component.SENDER, "", {}, environment={"A": HOSTILE})
    )
    assert variable == {"name": "A", "value": HOSTILE.replace("$", "$$")}
    for spec in pod_specs(desired(relay(FREE), inputs())).values():
        for each in spec["containers"][0].get("env", ()):
            assert "$(" not in each.get("value", "").replace("$$", "")


@pytest.mark.parametrize(
    "spec",
    [
        {"hostName": HOSTILE},
        {"heloName": "a$(b)"},
        {"images": {"nats": "a b"}},
        {"images": {"nats": "$(X)"}},
        {"routes": [{"name": "a'b", "smartHosts": [{"host": "a"}]}]},
        {"routes": [{"name": "a", "smartHosts": [{"host": "a b"}]}]},
        {"routes": [{"name": "a", "smartHosts": [{"host": "a", "caSecretName": "../x"}]}]},
        {"routes": [{"name": "a", "recipientDomains": ["a\nb"], "smartHosts": [{"host": "a"}]}]},
        {"queue": {"prefix": "a.b"}},
        {"queue": {"storage": {"className": "a/b"}}},
        {"security": {"usersSecretName": "$(X)"}},
        {"networkPolicy": {"clientNamespaces": ["a:b"]}},
        {"imagePullSecrets": [{"name": "a b"}]},
    ],
)
def test_a_name_that_would_be_a_part_of_another_text_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(ResourceError):
        read_relay(body(spec))


@pytest.mark.parametrize(
    "url",
    [
        *("nats://a:b", "nats://a:99999", "nats://a,nats://b:-1", "nats://$(X)", "nats://a'b"),
        *("nats://user:password@a", "http://a", "nats://a b"),
    ],
)
def test_a_url_that_names_no_server_and_port_is_a_fault_of_the_resource(url: str) -> None:
    credentials = {f"{role}SecretName": role for role in ("admin", "ingress", "sender", "monitor")}
    queue = {"url": url, "prefix": "p", "storeBytes": 10**9, "credentials": credentials}
    with pytest.raises(ResourceError, match=r"spec\.queue\.url: "):
        desired(relay({"queue": queue}), inputs())


# What Kubernetes itself takes for the value of a label; an annotation may be anything.
LABEL = st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", fullmatch=True)
HOST = st.from_regex(r"[a-z][a-z0-9]{0,9}(\.[a-z][a-z0-9]{0,9}){0,2}", fullmatch=True)
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "heloName": st.sampled_from(["", "a", "a-b.c"]),
        "routes": st.lists(
            st.fixed_dictionaries(
                {
                    "smartHosts": st.lists(
                        st.fixed_dictionaries(
                            {"host": HOST}, optional={"port": st.integers(1, 65535)}
                        ),
                        min_size=1,
                        max_size=3,
                        unique_by=lambda host: host["host"],  # twice the same one is refused
                    )
                }
            ),
            max_size=1,
        ).map(lambda routes: [{"name": "r", **route} for route in routes]),
        "ingress": st.fixed_dictionaries(
            {
                "pods": st.fixed_dictionaries(
                    {
                        "annotations": st.dictionaries(
                            st.just("example.com/a"), st.text(max_size=99)
                        ),
                        "labels": st.dictionaries(st.just("example.com/a"), LABEL),
                    }
                )
            }
        ),
    },
)


@settings(deadline=None, max_examples=15)  # YAML takes a while
@given(SPECS)
def test_manifests_survive_being_written_and_read(spec: dict[str, Any]) -> None:
    resource = relay(spec)
    children = desired(resource, inputs())
    for each in children:
        assert json.loads(json.dumps(each)) == each
        if each["kind"] not in {"Certificate", "PodMonitor"}:
            assert yaml.safe_load(yaml.safe_dump(each)) == each
    config = child(children, "ConfigMap", "mail-config")["data"]["config.json"]
    assert json.loads(config) == relay_config(resource)


@settings(deadline=None, max_examples=10)  # a schema takes a while
@given(SPECS)
def test_kubernetes_knows_what_is_made_of_any_resource(spec: dict[str, Any]) -> None:
    made: tuple[Manifest, ...] = desired(relay(spec), inputs())
    for name in ("mail-ingress", "mail-sender"):
        kubernetes_validate.validate(child(made, "Deployment", name), "1.35", strict=True)
