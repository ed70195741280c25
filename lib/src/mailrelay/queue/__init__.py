"""The queue: mail words in, JetStream out, and back. The only importer of `nats`.

1. `names` gives every stream, consumer, subject and inbox its name under one prefix.
2. `wire` writes and reads the stored records; each begins with its format version, and
   what it says keeps within `bounds`.
3. `connection` holds one role's connection to NATS and speaks the JetStream API.
4. `streams` says what streams and consumers there are, and makes or checks them (admin only).
5. `rights` says what each role may do; `nkey` makes the keys by which NATS knows it, and
   `server_config` tells nats-server of both.
6. `publish` stores records: one, or several all together; it knows what a refusal means.
7. `consume` claims records, holds them while they are worked on, and settles them; `epoch` knows
   whether the server still has them.
8. `lanes` decides where a record waits that is due later.
9. `bodies` stores large content once and hands it out in pieces.
10. `events` tells what happened, in batches, and reads it back in order.
11. `failed` keeps what could not be delivered, `captured` what had nowhere to go.
12. `leader` asks a stream's leader and makes sure that it is one; `levels` asks how full a stream
    is, `ready` what senders could take now, `server_health` how the server is; `orphans` removes
    records that come back after their ack.
13. `state` tells and hears what is wrong with a process now.
14. `pace` keeps how far the jobs of a submission have come.
15. `counters` counts for the rate limits, exactly, from any number of processes.
16. `backup` reads the whole queue into a file (`backup_file`), `restore` puts it into another one.
17. `errors` has what can go wrong with all of it.

docs/decisions/0003 says why JetStream, docs/flow.md how a message passes through.
"""
