"""What ingress, sender, monitor, operator and command share.

1. `mail` has the words of the field and the pure decisions about them.
2. `queue` puts those words into NATS JetStream and takes them out; nothing else talks to NATS.
3. `config` is the one typed model of a relay.
4. `runtime` is what any process needs (clock, logs, traces, lifecycle) and knows no mail.
5. `service` is what a service process is told: its configuration, its queue, its sockets; `emails`
   says where kept content lies; `readiness` whether mail can be taken.
"""
