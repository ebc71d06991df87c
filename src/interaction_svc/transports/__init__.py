"""Transports: gRPC and HTTP. Each turns a request into one call of the application."""
