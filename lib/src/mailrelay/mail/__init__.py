"""The field's words as values. Only the standard library is imported.

1. `address` says what an envelope address may be, `ids` names a submission.
2. `header` reads what concerns a relay in a header section and adds the fields on top.
3. `job` is what is queued, with its recipients and their past attempts.
   `wire_form` undoes what the wire adds to content, `next_hop` reads `host:port`.
4. `reply` is what a server said, `disposition` what an attempt made of a recipient.
5. `retry` says when a deferred recipient is tried again.
6. `pace` is how far the jobs of one submission have come.
7. `event` tells what happened.
8. `limit` names what rate limits count: whose messages, in which window.

Nothing here does input or output, reads a clock or tosses a coin: what depends on time or chance
takes it as an argument.
"""
