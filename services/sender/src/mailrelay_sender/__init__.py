"""Sender: takes jobs from the queue, tries them, and settles every recipient.

1. `slots` claims records, new and due, and shares the delivery slots out among them: `space` says
   whether there is room for what new mail may need, `fair` who is served next, `pacing` whether a
   job's turn among those of its message has come, `turn` what that means for it (pure).
2. `route` says where a recipient's mail goes next. Pure. A job whose recipients have several routes
   is divided into one for each before anything is tried.
3. `connection` keeps SMTP connections to next hops (aiosmtplib), on which `dialogue` pairs commands
   and replies; `named_hops` keeps those to hops that were named with a release; `plan` has the
   routes of a configuration with the connections to their smart hosts; `upstream` goes over to
   another plan when the configuration changes, and tells which smart hosts cannot be used.
4. `attempt` tries one job by one route; `quarantine` has it done by `alone`, in a process of its
   own, when the job may have killed a sender (`suspicion`).
5. `classify` says what a reply means for a recipient. Pure.
6. `follow_up` decides what remains of a job after an attempt. Pure.
7. `settle` has what remains stored (`remains`), tells what happened (`report`), and only then acks.
8. `work` is one slot's life: claim, attempt, have it settled; `main` puts it all together.
"""
