"""What is recorded about requests and the process: logs, audit lines and metrics."""
