"""The command `mailrelay`.

1. `entry` is called first and hands on to `main`, which has the commands and their options, and
   turns what goes wrong into lines and exit codes.
2. `run` is a whole relay on one machine: `prepare` looks at what could be wrong before anything is
   started, `children` says how each process is started.
3. `nats_server` finds or fetches a nats-server, or builds one by way of `go_build`; `nats_config`
   writes what it is started with, `nats_watch` notices when it is broken.
4. `data_folder` is what lies where on disk, and the two locks on it.
5. `listeners` opens the sockets, once, for as long as the relay runs.
6. `supervisor` keeps processes alive, knowing nothing of mail; `child_process` is one of them.
7. `log_file` takes the lines that they write; `run_file` tells other programs of the running relay.
8. `mail_commands` are those on failed and captured mail, by way of `monitor_client`.
9. `send`, `limits`, `users`, `emails`, `queue_step`, `backup_commands`, `config_command` and
   `upstream_check` are the other commands.
10. For containers: `first_secrets` makes a user and a token where nobody named others, `health` is
    the health check, and `for_containers` makes what a relay in several of them needs.
11. `checked_config` reads a configuration for all of them; `console` and `errors` serve all.
"""
