"""The operator: makes of each MailRelay resource a relay in its namespace, and keeps it so.

1. `resource` is the MailRelay resource: its fields, the custom resource definition that is made of
   them, and the configuration that the relay's pods read.
2. `generate` makes the Secrets that nobody gave: `certificates` of an authority of the relay's own,
   users, a token, and keys at NATS, which `key_slots` replaces without loss.
3. `desired` says what the relay's objects shall be.
4. `cluster` is the API server, with the `rights` that the operator has there. `handlers` and the
   watches tell of relays, of their children (`child_kinds`, `child`) and of Secrets; what is
   `known` puts a relay into the `work_queue`, which `workers` turn. `relist` finds what was not
   told.
5. `reconcile` makes a pass over one relay: `references` are the Secrets that it names,
   `secrets_of` reads and writes them, `gather` puts the inputs of `desired` together, `plan` holds
   what is wanted against what is there by means of `compare`, `apply` does it, `upgrade` says
   whose turn it is to roll for a new operator, `rotation` replaces keys, `streams_again` has
   streams made that the queue has lost.
6. `observe` and `view` look at what runs, `conditions` sum it up, `status_writer` and `events` tell
   it. `backlog` asks the monitors, `autoscale` decides by it, `scaling` keeps both.
7. `main` puts it together, by its `settings`; `leader` lets one of several act; `face` and
   `metrics` are what is seen of it.
"""
