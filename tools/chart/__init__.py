"""The chart's generated files: what one place says, a chart would otherwise say again.

1. `values` has every value of the chart, typed, with its default and meaning.
2. `values_file` writes them as values.yaml with comments, `schema` as values.schema.json, `readme`
   as the chart's README; `text` is what those share.
3. `templates` writes the two templates that have another source: the definition of MailRelay, and
   the operator's rights.
4. `files` puts text and path together; `make docs` writes them, and a test compares.
5. `manifests` puts everything into one file for kubectl (`make manifests`).
"""
