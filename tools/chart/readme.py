"""charts/mailrelay/README.md: how to install, and every value."""

from __future__ import annotations

import json
from typing import Any, Final

from tools.chart.text import rows
from tools.chart.values import Chart
from tools.reference.markdown import code, table

_NOTICE: Final = "<!-- Written by `make docs` from tools/chart; change that, not this page. -->\n\n"
_INTRODUCTION: Final = """\
# Chart mailrelay

Installs MailRelay's operator, which makes mail relays of `MailRelay` resources, and their
definition. It needs Kubernetes 1.31 or newer (tested: Helm 4.3.1 on Kubernetes 1.35.4).

```
helm install mailrelay charts/mailrelay --namespace mailrelay-system --create-namespace
```

Images are taken from `images.registry`; without one the nodes must have them (`docker build`, as
Dockerfile says). What comes next is told by Helm, and in the guide (docs/guide/kubernetes.md):
first relay, production, upgrade, uninstall. The fields of a relay are in
docs/reference/mailrelay.md.

## What is made

One operator (a Deployment with its ServiceAccount, roles and NetworkPolicy) keeps the relays of
all namespaces, or of those in `operator.watchNamespaces`. Two operators over one namespace would
undo each other's work, so the names of roles are the same for every release: a second
installation is refused.

The definition is part of the chart's templates, so `helm upgrade` upgrades it. It stays when the
chart is uninstalled, and relays with it: they run on without an operator, and the next
installation takes them over.

## Values

Wrong values are refused by values.schema.json with the field's name. `relay.spec` is
checked there, too.

"""


def readme_text() -> str:
    """Return the page."""
    body = (
        (code(row.path), _default(row.default), row.meaning)
        if not row.is_section
        else (f"**{row.path}**", "", row.meaning)
        for row in rows(Chart())
    )
    return _NOTICE + _INTRODUCTION + table(("Value", "Default", "Meaning"), body)


def _default(value: Any) -> str:  # noqa: ANN401 — any value of a chart
    return code(json.dumps(value))
