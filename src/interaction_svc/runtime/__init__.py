"""Starts, supervises and stops the service.

This module imports nothing: a worker process sets the value class of its metrics before anything
of `interaction_svc` is imported.
"""
