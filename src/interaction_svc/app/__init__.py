"""The operations of the service, independent of transports and databases."""
