"""Records of requests and of the process: logs, audit lines and metrics."""
