"""Import from files of the vendor's JSON, export as JSON lines, and copying between stores."""

from interaction_svc.transfer.exporter import export_lines
from interaction_svc.transfer.importer import ImportReport, KeyForm, Problem, import_stream

__all__ = ["ImportReport", "KeyForm", "Problem", "export_lines", "import_stream"]
