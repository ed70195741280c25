"""The monitor: what became of all mail, told over HTTP. Mail flows on without it.

1. `collect` reads what ingress and senders told, in order, and hands it to
2. `index`, one row a submission and recipient in SQLite (`index_file`); `progress` says what an
   event changes there, and what that adds to
3. `totals`, in the same transaction (what each number means stands there); `index_thread` keeps
   the event loop free of it.
4. `checkpoint` keeps the totals at NATS too, for the day on which the index file is lost.
5. `backlog` asks what the streams hold and how much disk is left.
6. `health` judges it; `ready` tells whether mail can be taken.
7. `bodies` deletes large content that nothing names any more.
8. `failed_follow` reads the failed store into `failed_index`, a `failed_row` a record
   (`failed_filter` says which are meant); `failed_files` keeps a file for each, with the
   `failed_content` in or beside it (`held_content`); `failed_removal` removes by hand and past the
   limits, `failed_returned` what is there again although it is gone (what the stream dropped
   stands in `gone_book`).
9. `retry` sends failed mail again, `captured` releases captured mail, as `lane_room` has room;
   `release_book` and `resend_book` note how far. Their notes are in `admin_database`. `kept`
   finds and thins out the content that ingress kept.
10. `limits` tells how far the rate limits are used up.
11. `http` answers: `access` says who may ask what, `page` is the page for people, `exposition`
    the numbers for Prometheus, `serve` the listening sockets, `http_connection` a client on them.
    `admin` adds what is asked for by hand: `admin_failed` and `admin_captured`, of `admin_parts`;
    `asked` reads requests.
12. `main` puts the process together.
"""
