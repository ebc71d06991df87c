"""The REST transport, in the vendor's shape; its adapter can be used as a library."""

from interaction_svc.rest.adapter import from_json, interaction_url, list_url, to_envelope, to_json

__all__ = ["from_json", "interaction_url", "list_url", "to_envelope", "to_json"]
