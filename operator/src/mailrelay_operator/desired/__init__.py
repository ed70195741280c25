"""What a relay's objects shall be: `desired(relay, inputs)`. Pure.

1. `names` gives each child its name, `labels` the labels by which it is found, `manifest` its head.
2. `inputs` is what is needed beside the resource.
3. `pods` is what all pods have in common; `services` what the relay's own processes have;
   `restarts` says which option rolls which of them.
4. The components: `nats`, `streams_job`, `ingress`, `sender`, `monitor`; `config` is what they
   read.
5. `flows` is the one table of who talks to whom; `network` makes NetworkPolicies of it.
6. `disruption` lets one pod go at a time; `add_ons` are objects of cert-manager and Prometheus.
7. `children` puts all of it together, in the order in which it is to be applied.
"""
