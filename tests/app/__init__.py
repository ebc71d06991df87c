"""Tests of `interaction_svc.app`."""
