"""Tests of `interaction_svc.domain`."""
