"""Tests of `interaction_svc.transfer`."""
