"""The error of a response that its client no longer reads."""


class ClientGoneError(Exception):
    """The client has ended the connection after part of the response was sent."""
