"""The operations of the service, free of transport and of database."""
