"""Into the store and out of it: the vendor's JSON from files, and JSON lines back."""

from interaction_svc.transfer.exporter import export_lines
from interaction_svc.transfer.importer import ImportReport, KeyForm, Problem, import_stream

__all__ = ["ImportReport", "KeyForm", "Problem", "export_lines", "import_stream"]
