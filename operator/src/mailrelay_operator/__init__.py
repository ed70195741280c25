"""The operator: makes of each MailRelay resource a relay in its namespace, and keeps it so.

1. `resource` is the MailRelay resource: its fields, the custom resource definition that is made of
   them, and the configuration that the relay's pods read.
"""
