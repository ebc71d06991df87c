"""Tests of `interaction_svc.codec`."""
