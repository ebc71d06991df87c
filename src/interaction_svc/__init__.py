"""interaction-svc: the log of Twilio Proxy Interactions, over gRPC and REST."""

from importlib.metadata import version

__version__ = version("interaction-svc")
