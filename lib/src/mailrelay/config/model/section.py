"""What every section of the configuration is made of, and how its keys are spelled."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=30 * 24 * 3600)]

# Marks an option whose change is taken over while the relay runs (docs/decisions/0020). Without
# the mark a change needs a restart, which is what is true of an option nobody subscribed to.
LIVE: Final[JsonDict] = {"reloadable": True}

# Acronyms that keys write in capitals, as the guide's do.
_SPELLED = {
    "forward_smtp": "forwardSMTP",
    "forward_ssl": "forwardSSL",
    "forward_verify_tls": "forwardVerifyTLS",
    "forward_ca_file": "forwardCAFile",
    "tls": "tls",
    "verify_tls": "verifyTLS",
}


def _key(name: str) -> str:
    return _SPELLED.get(name) or to_camel(name)


class Section(BaseModel):
    """A JSON object with known keys; immutable, and silent about the values that it refuses."""

    model_config = ConfigDict(
        alias_generator=_key,
        validate_by_alias=True,
        validate_by_name=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )
