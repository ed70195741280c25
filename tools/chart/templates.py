"""Templates that have another source: the definition of MailRelay, and the operator's rights."""

from __future__ import annotations

from typing import Final

import yaml

from mailrelay_operator.rights import OWN, RELAYS, Grant, rules
from tools.reference.resource_page import crd_text

_CRD_NOTICE: Final = """\
{{- /* Written by `make docs` from mailrelay_operator.resource: change the models. */ -}}
"""
_CRD_NAME: Final = "metadata:\n  name: mailrelays.mailrelay.dev\n"
_CRD_METADATA: Final = """\
metadata:
  name: mailrelays.mailrelay.dev
  labels:
    {{- include "mailrelay.labels" . | nindent 4 }}
  annotations:
    mailrelay.dev/definition: {{ include "mailrelay.definition" . | quote }}
    {{- if .Values.crds.keep }}
    helm.sh/resource-policy: keep
    {{- end }}
    {{- with .Values.commonAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
"""
_RIGHTS_NOTICE: Final = """\
{{- /* Written by `make docs` from mailrelay_operator: change the code there. */ -}}
"""


def crd_template() -> str:
    """Return templates/crds/mailrelays.yaml."""
    text = "".join(f"{line}\n" for line in crd_text().splitlines() if not line.startswith("#"))
    definition = _definition(text)
    before, found, after = text.partition(_CRD_NAME)
    if not found or "{{" in text or f"    mailrelay.dev/definition: {definition}\n" not in after:
        raise ValueError("the definition's text is not what the chart's template makes of it")
    after = after.partition(f"mailrelay.dev/definition: {definition}\n")[2]
    inner = before + _CRD_METADATA + after
    return _CRD_NOTICE + "{{- if .Values.crds.enabled }}\n" + inner + "{{- end }}\n"


def generated_helpers() -> str:
    """Return templates/_generated.tpl: rights as rules of a Role, the definition's digest."""
    return "\n".join(
        [
            _RIGHTS_NOTICE.rstrip("\n"),
            _defined("mailrelay.rights.relays", _rules(RELAYS)),
            _defined("mailrelay.rights.own", _rules(OWN)),
            _defined("mailrelay.definition", _definition(crd_text())),
            "",
        ]
    )


def _definition(text: str) -> str:
    found: str = yaml.safe_load(text)["metadata"]["annotations"]["mailrelay.dev/definition"]
    return found


def _rules(grants: tuple[Grant, ...]) -> str:
    return yaml.safe_dump(rules(grants), sort_keys=False).rstrip("\n")


def _defined(name: str, text: str) -> str:
    return f'{{{{- define "{name}" -}}}}\n{text}\n{{{{- end }}}}'
