"""Tests of `interaction_svc.telemetry`."""
