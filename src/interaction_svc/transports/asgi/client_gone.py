"""The error for a response whose client has disconnected."""


class ClientGoneError(Exception):
    """The client has ended the connection before the whole response was sent."""
