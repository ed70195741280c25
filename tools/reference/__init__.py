"""What is generated: written from the code so that it cannot say anything else.

1. `config_page` has every option, `reply_page` every reply, `metric_page` every metric,
   `queue_page` the streams, consumers, lanes and rights, and `step_page` the marked steps.
   `resource_page` has every field of the MailRelay resource, and its definition for Kubernetes,
   `rbac` the operator's rights there.
2. `markdown` writes tables.
3. `pages` puts page and path together; `python -m tools.reference` writes them all, and a test
   compares them with what stands in the repository.
"""
