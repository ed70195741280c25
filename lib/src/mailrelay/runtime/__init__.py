"""What any of our processes needs and that knows no mail.

1. `lifecycle` is a process's life: signals, readiness, its supervisor's death.
2. `clock` is time as an argument.
3. `logging` writes one line an event.
4. `tracing` passes trace context on; `tracing_otlp` exports spans when asked to.
5. `probe` serves a process's metrics and liveness.
6. `tasks` runs work in the background, bounded.
7. `watch` notices that a file changed.
8. `steps` marks the steps of the queue's protocol, for tests that kill a process after each.
9. `addresses` are what a process listens on.
10. `certificate` is what a TLS listener shows, also while it changes.
"""
