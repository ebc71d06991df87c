"""Tests of `interaction_svc.transports`."""
