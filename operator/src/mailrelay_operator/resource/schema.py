"""What the resource's models are made of.

The models say everything once: pydantic reads resources by them, and `crd` writes the custom
resource definition from them. What only the definition needs stands in `Annotated` metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import GroupedMetadata
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

# Keys whose acronyms stay in capitals, as in Kubernetes' own fields.
_SPELLED = {"verify_tls": "verifyTLS"}


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule that the API server checks, and what it says when the rule is broken.

    `self` is the value that the rule stands at. The message says what to do.
    """

    rule: str
    message: str
    field: str = ""  # below `self`: what the fault is shown at
    reason: Literal["", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"] = ""


@dataclass(frozen=True, slots=True)
class Shape(GroupedMetadata):
    """What a text must look like, and the words for one that does not.

    A `pattern` of OpenAPI's would be shown as it is, which tells few people what to write. The
    pattern has no single quote.
    """

    pattern: str
    message: str

    def __iter__(self) -> Iterator[object]:
        """Yield what pydantic checks."""
        yield from StringConstraints(pattern=self.pattern)

    @property
    def rule(self) -> Rule:
        """What the API server checks."""
        return Rule(f"self.matches(r'{self.pattern}')", self.message)


@dataclass(frozen=True, slots=True)
class ListType:
    """How server-side apply merges a list: `set` by value, `map` by keys, `atomic` not at all."""

    kind: Literal["atomic", "set", "map"]
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IntOrString:
    """A value that people write as a number or as a string (`cpu: 2`, `cpu: 500m`)."""


@dataclass(frozen=True, slots=True)
class Format:
    """A text's format as OpenAPI names it; the API server checks those that it knows."""

    name: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object that is handed on as it is; the API server checks it where it ends up."""


def _key(name: str) -> str:
    return _SPELLED.get(name) or to_camel(name)


class Section(BaseModel):
    """A part of the resource: camelCase keys, none but those named, never changed."""

    model_config = ConfigDict(
        alias_generator=_key,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
    )
    RULES: ClassVar[tuple[Rule, ...]] = ()


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# Lengths and letters are those of Kubernetes: a subdomain and a label of RFC 1123.
# The name of an object of the relay's own namespace.
ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Shape(
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        "must be an object's name: a-z, 0-9, - and ., with a letter or digit at both ends of each "
        "part",
    ),
]
LabelName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Shape(
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        "must be a name of a-z, 0-9 and -, with a letter or digit at both ends",
    ),
]
Port = Annotated[int, Field(ge=1, le=65535)]
Cidr = Annotated[
    str,
    # The longest: eight groups, and a prefix of three digits.
    Field(min_length=1, max_length=43),
    Rule(
        "isCIDR(self) && cidr(self) == cidr(self).masked()",
        "must be a network such as 192.0.2.0/24 or 2001:db8::/32, with no bits set behind its "
        "prefix (one address: 192.0.2.1/32)",
    ),
]
Quantity = Annotated[
    str,
    BeforeValidator(_as_text),
    IntOrString(),
    Field(min_length=1, max_length=32),
    Rule(
        "type(self) == int ? self > 0 : isQuantity(string(self)) && "
        "quantity(string(self)).isGreaterThan(quantity('0'))",
        "must be an amount greater than 0, such as 500m, 512Mi or 10Gi",
    ),
]
Time = Annotated[str, Format("date-time")]  # RFC 3339
Text = Annotated[str, Field(max_length=1024)]
StringMap = Annotated[dict[str, Text], Field(max_length=64)]
AnyObject = Annotated[dict[str, Any], Opaque()]
