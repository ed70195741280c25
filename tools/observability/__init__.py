"""Grafana's dashboard and Prometheus' rules, written from typed values (`make docs`).

1. `promql` has what every query says in the same words: which relay, and what is counted together.
2. `grafana` is a dashboard's shape: rows, panels, queries, variables. `queries` has what panels
   share; `mail_rows` and `state_rows` are rows, and `overview` is the first dashboard.
3. `alerting` is a rule file's shape; `readiness_alerts`, `queue_alerts`, `delivery_alerts` and
   `operator_alerts` are the alerts, each with a page in docs/runbooks.
4. `files` puts file and path together.
"""
