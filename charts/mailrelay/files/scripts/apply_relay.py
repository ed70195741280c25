"""Apply the chart's first relay by server-side apply, with this pod's account.

The definition may be a second old, so what is not served yet is tried again. What the API server
refuses is printed as it said it. Exit codes: 0 applied, 1 refused or not in time.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
LIMIT_SECONDS = float(os.environ.get("LIMIT_SECONDS", "120"))
PAUSE_SECONDS = 1.0


def main(file: str) -> int:
    """Apply the relay of a JSON file."""
    relay = json.loads(Path(file).read_text())
    metadata = relay["metadata"]
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    url = (
        f"{server}/apis/{relay['apiVersion']}/namespaces/{metadata['namespace']}"
        f"/mailrelays/{metadata['name']}?fieldManager=helm&force=true&fieldValidation=Strict"
    )
    until = time.monotonic() + LIMIT_SECONDS
    while True:
        status, said = ask(url, relay)
        if status in {200, 201}:
            print(f"MailRelay {metadata['namespace']}/{metadata['name']} is applied")
            return 0
        # Not served yet, or a server that is not well; anything else would be answered again.
        if (status and status != 404 and status < 500) or time.monotonic() > until:
            print(f"MailRelay {metadata['namespace']}/{metadata['name']}: {said}", file=sys.stderr)
            return 1
        time.sleep(PAUSE_SECONDS)


def ask(url: str, relay: dict[str, object]) -> tuple[int, str]:
    """Return the answer's status (0: nobody answered) and what it says."""
    request = urllib.request.Request(  # noqa: S310 — https, by `main`
        url,
        data=json.dumps(relay).encode(),
        method="PATCH",
        headers={
            "Authorization": "Bearer " + (ACCOUNT / "token").read_text().strip(),
            "Content-Type": "application/apply-patch+yaml",
        },
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:  # noqa: S310 — as above
            return answer.status, ""
    except urllib.error.HTTPError as error:
        body = error.read().decode(errors="replace")
        try:
            return error.code, str(json.loads(body)["message"])
        except (ValueError, KeyError, TypeError):
            return error.code, body.strip()
    except OSError as error:
        return 0, f"the API server does not answer: {error}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
