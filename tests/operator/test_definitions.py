"""What a real API server thinks of custom resource definitions: the traps that ours avoids."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest

from tests.support.kubernetes.client import ApiRefusedError, Client, Manifest

pytestmark = pytest.mark.operator


@pytest.fixture
async def group(admin: Client) -> AsyncIterator[str]:
    """A group that no other test's definition is in; definitions belong to the whole cluster."""
    name = f"{secrets.token_hex(5)}.example.org"
    yield name
    if await admin.find("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"things.{name}"):
        await admin.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"things.{name}")


def definition(group: str, spec: Manifest, **root: object) -> Manifest:
    schema = {"type": "object", "properties": {"spec": spec}, **root}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"things.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things", "singular": "thing"},
            "versions": [version],
        },
    }


def thing(group: str, name: str = "thing", **spec: object) -> Manifest:
    api_version = f"{group}/v1"
    return {"apiVersion": api_version, "kind": "Thing", "metadata": {"name": name}, "spec": spec}


def rule(text: str, message: str) -> Manifest:
    return {"rule": text, "message": message}


SCALING: Manifest = {
    "type": "object",
    "x-kubernetes-validations": [
        rule("self.minimum <= self.maximum", "minimum must not be above maximum")
    ],
    "properties": {
        "minimum": {"type": "integer", "default": 1},
        "maximum": {"type": "integer", "default": 2},
    },
}


async def test_an_empty_default_of_an_object_whose_rule_reads_its_children_is_refused(
    admin: Client, group: str
) -> None:
    scaling = {**SCALING, "default": {}}
    with pytest.raises(ApiRefusedError, match="no such key: minimum"):
        await admin.apply(definition(group, {"type": "object", "properties": {"scaling": scaling}}))


async def test_the_whole_default_of_such_an_object_is_taken(admin: Client, group: str) -> None:
    scaling = {**SCALING, "default": {"minimum": 1, "maximum": 2}}
    await admin.apply(definition(group, {"type": "object", "properties": {"scaling": scaling}}))
    (stored,) = await admin.apply(thing(group))
    assert stored["spec"] == {"scaling": {"minimum": 1, "maximum": 2}}
    with pytest.raises(ApiRefusedError, match=r"spec\.scaling: .*minimum must not be above"):
        await admin.apply(thing(group, scaling={"minimum": 3}))


async def test_a_choice_of_a_type_or_null_is_refused(admin: Client, group: str) -> None:
    name: Manifest = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    with pytest.raises(ApiRefusedError, match=r"properties\[spec\]\.properties\[name\]\.type"):
        await admin.apply(definition(group, {"type": "object", "properties": {"name": name}}))


async def test_a_reference_is_refused(admin: Client, group: str) -> None:
    name: Manifest = {"$ref": "#/definitions/Name"}
    with pytest.raises(ApiRefusedError, match=r"\$ref"):
        await admin.apply(definition(group, {"type": "object", "properties": {"name": name}}))


async def test_a_rule_without_bounds_on_what_it_walks_through_costs_too_much(
    admin: Client, group: str
) -> None:
    items: Manifest = {"type": "object", "properties": {"port": {"type": "integer"}}}
    ports: Manifest = {
        "type": "array",
        "items": items,
        "x-kubernetes-validations": [
            rule("self.all(a, self.exists_one(b, a.port == b.port))", "ports must differ")
        ],
    }
    spec: Manifest = {"type": "object", "properties": {"ports": ports}}
    with pytest.raises(ApiRefusedError, match="estimated rule cost exceeds budget"):
        await admin.apply(definition(group, spec))
    ports["maxItems"] = 8
    await admin.apply(definition(group, spec))
    with pytest.raises(ApiRefusedError, match="ports must differ"):
        await admin.apply(thing(group, ports=[{"port": 1}, {"port": 1}]))


async def test_a_rule_may_bound_the_name(admin: Client, group: str) -> None:
    short = rule("size(self.metadata.name) <= 5", "metadata.name must have at most 5 characters")
    await admin.apply(
        definition(group, {"type": "object"}, **{"x-kubernetes-validations": [short]})
    )
    await admin.apply(thing(group, "short"))
    with pytest.raises(ApiRefusedError, match="must have at most 5 characters"):
        await admin.apply(thing(group, "longer"))


async def test_a_field_may_be_made_immutable(admin: Client, group: str) -> None:
    prefix: Manifest = {
        "type": "string",
        "x-kubernetes-validations": [rule("self == oldSelf", "prefix is immutable")],
    }
    await admin.apply(definition(group, {"type": "object", "properties": {"prefix": prefix}}))
    await admin.apply(thing(group, prefix="one"))
    with pytest.raises(ApiRefusedError, match=r"spec\.prefix: .*prefix is immutable"):
        await admin.apply(thing(group, prefix="two"))


async def test_a_duration_in_days_is_no_duration(admin: Client, group: str) -> None:
    longest: Manifest = {
        "type": "string",
        "maxLength": 16,
        "x-kubernetes-validations": [rule("duration(self) > duration('0s')", "must be positive")],
    }
    await admin.apply(definition(group, {"type": "object", "properties": {"longest": longest}}))
    await admin.apply(thing(group, longest="120h"))
    with pytest.raises(ApiRefusedError, match=r"spec\.longest"):
        await admin.apply(thing(group, longest="5d"))


async def test_an_unknown_field_is_refused_by_apply(admin: Client, group: str) -> None:
    spec: Manifest = {"type": "object", "properties": {"known": {"type": "string"}}}
    await admin.apply(definition(group, spec))
    with pytest.raises(ApiRefusedError, match=r"spec\.unknown"):
        await admin.apply(thing(group, unknown="x"))
