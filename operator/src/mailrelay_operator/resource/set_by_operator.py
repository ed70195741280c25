"""Options of the relay that have no field in the resource, each with its reason.

Every option is a field (`option`) or stands here; a test holds both against the relay's own model.
`relay_config` gives them their values.
"""

from __future__ import annotations

from typing import Final

SET_BY_OPERATOR: Final = {
    "smtpHost": "pods listen on every address; who reaches them is for Service and NetworkPolicy",
    "smtpPort": "pods listen where no rights are needed; spec.ingress.port is the Service's",
    "defaultUsername": "users come from a Secret: spec.security.usersSecretName",
    "defaultPassword": "passwords come from a Secret: spec.security.usersSecretName",
    "forwardSMTP": "spec.routes says where mail goes",
    "forwardHost": "spec.routes says where mail goes",
    "forwardPort": "spec.routes says where mail goes",
    "forwardUsername": "a smart host's credentialsSecretName",
    "forwardPassword": "a smart host's credentialsSecretName",
    "forwardSSL": "a smart host's tls",
    "forwardVerifyTLS": "a smart host's verifyTLS",
    "forwardCAFile": "a smart host's caSecretName",
    "enableHealthCheck": "always on: probes, scaling and status read it",
    "healthCheckPort": "pods listen where no rights are needed, all relays at the same port",
    "security.allowLocalOnly": "true with spec.security.allowedNetworks, false without",
    "security.trustLoopback": "false: in a pod loopback may be a sidecar that hands strangers on",
    "security.usersFile": "where the pods see the Secret of spec.security.usersSecretName",
    "tls.certFile": "where the pods see the Secret of spec.ingress.tls",
    "tls.keyFile": "where the pods see the Secret of spec.ingress.tls",
    "tls.selfSigned": "each pod would have one of its own; the operator makes one for all",
    "tls.smtpsPort": "pods listen where no rights are needed; spec.ingress.smtpsPort is the "
    "Service's",
    "http.listen": "pods listen on every address; who reaches them is for NetworkPolicy",
    "http.tokenFile": "where the monitor sees the Secret of spec.monitor.tokenSecretName",
}
