"""Tests of whole processes: crashes, stops, overload, failover, SDKs and hostile clients."""
