"""Several processes that serve on the same ports, as one server: `serve --workers N`.

The group (group.py) is the process that was started: it does once what is done once, starts the
workers, starts again those that end, and stops them all. A worker (worker.py) is a fresh
interpreter with a whole server in it. What the two tell each other is in messages.py.
"""
