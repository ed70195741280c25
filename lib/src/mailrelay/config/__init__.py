"""The one typed model of a relay, and how it is read.

1. `model` has every option with its default, range and meaning.
2. `text` reads `config.json`, comments included.
3. `load` puts defaults, file and environment together, and says what is wrong in one line each.
4. `networks` reads networks, and tells whether an address is in one; `users` reads and writes the
   file of users; `files` says what is wrong with the files that a configuration names.
"""
