"""What any of our processes needs and that knows no mail: clock, logs, metrics, traces, life."""
