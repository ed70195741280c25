"""Every field of the MailRelay resource by its path."""

from __future__ import annotations

import typing
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mailrelay_operator.resource.spec import Spec


def fields(model: type[BaseModel] = Spec, above: str = "spec") -> Iterator[tuple[str, FieldInfo]]:
    for field in model.model_fields.values():
        path = f"{above}.{field.alias}"
        yield path, field
        for part in (field.annotation, *typing.get_args(field.annotation)):
            for inner in (part, *typing.get_args(part)):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from fields(inner, path)


FIELDS = dict(fields())
