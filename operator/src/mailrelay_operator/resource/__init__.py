"""The MailRelay resource. Pure: no input or output, no clock, nothing random.

1. `schema` is what its models are made of: sections, CEL rules, and how lists are merged; `option`
   makes a field of an option of the relay, with that option's own meaning, default and range.
2. `spec` is the whole spec. Its sections, as an administrator thinks of a relay: `ingress`,
   `security`, `routes`, `sender`, `limits` (with captured, failed and kept mail), `queue`,
   `monitor`, `access` (network policy), `tracing`, and for each component's pods `pods`.
   `quantity` reads amounts such as 10Gi.
3. `relay` reads a resource as the API server shows it; `relay_config` makes of it the configuration
   that the pods read, which names files by `paths`.
4. `crd` is the custom resource definition, by way of `structural`; `status` is what the operator
   tells of a relay.
5. `set_by_operator` names the options that have no field, each with its reason.
"""
