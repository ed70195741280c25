"""The one typed model of a relay, and how it is read.

1. `model` has every option with its default, range and meaning.
2. `text` reads `config.json`, comments included.
3. `load` puts defaults, file, environment and command line together, and says what is wrong in one
   line each; `words` says what an option may be.
4. `tls` and `token` read the files that options name; `files` looks into all of them.
5. `live` takes a changed configuration over while the process runs.
"""
