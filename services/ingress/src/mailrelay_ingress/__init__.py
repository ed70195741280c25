"""Ingress: takes mail by SMTP and says 250 only once it is safe in the queue.

1. `listener` speaks SMTP (aiosmtpd) and holds the sockets; it asks, it decides nothing.
   `refresh` keeps its certificate and its users up to date.
2. `session` has what is known of a client and its transaction.
3. `authentication` checks credentials; `throttle` slows down who guesses.
4. `policy` decides on each command: a reply, or go on. Pure.
5. `content` reads the octets behind DATA: where they end, and what they must not contain. Pure.
6. `accept` makes a submission of them: queue id, trace fields on top, jobs.
7. `enqueue` stores it, and turns what the queue says into the client's reply.
8. `rate_limits` gives a message its place under the limits and `reservation` holds it until the
   answer; `leases` keeps tokens of the counters here, so that most messages need not ask for them.
8. `keep` writes a copy for people, when asked to, beside all that.
9. `replies` has every reply in one place; `memory` bounds what content may occupy.
10. `main` puts the process together.
"""
