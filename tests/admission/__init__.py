"""Tests of `interaction_svc.admission`."""
