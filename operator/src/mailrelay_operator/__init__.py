"""The operator: makes of each MailRelay resource a relay in its namespace, and keeps it so.

1. `resource` is the MailRelay resource: its fields, the custom resource definition that is made of
   them, and the configuration that the relay's pods read.
2. `generate` makes the Secrets that nobody gave: `certificates` of an authority of the relay's own,
   users, a token, and keys at NATS, which `key_slots` replaces without loss.
3. `desired` says what the relay's objects shall be.
"""
