"""Several processes that serve on the same ports, as one server: `serve --workers N`.

The supervisor (supervisor.py) is the process that the user started. It migrates the store, starts
the workers, restarts those that end, and stops them all. A worker (worker.py) is a new interpreter
that runs a whole server. Their messages are in control_messages.py.
"""
