"""Tests of `interaction_svc.runtime.workers`."""
