"""The one typed model of a relay, and how it is read.

1. `model` has every option with its default, range and meaning.
2. `text` reads `config.json`, comments included.
3. `defaults` is the table of what is different without a file, and in a container; `load` puts
   defaults, file, environment and command line together, and says what is wrong in one line each;
   `words` says what an option may be, `nested` what is wrong inside a list of objects.
4. `networks` reads networks, and tells whether an address is in one; `users` reads and writes the
   file of users, `token` reads that of the token, both by way of `private_file`;
   `smart_hosts` are the routes that mail leaves by with their credentials, `tls` is TLS to them;
   `files` says what is wrong with the files that a configuration names.
5. `live` takes a changed configuration over while the process runs; `in_force` hands what holds
   then on to a process that is started again.
"""
