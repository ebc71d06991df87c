"""Test that docs/architecture.md lists the packages of src/interaction_svc."""

import re

from testing.paths import DOCS, ROOT

SOURCE = ROOT / "src" / "interaction_svc"


def packages_in(table: str) -> set[str]:
    """Return the names in backticks in the first cell of each row."""
    first_cells = re.findall(r"^\| (`[^|]*`) \|", table, re.MULTILINE)
    return {name for cell in first_cells for name in re.findall(r"`([\w/]+)`", cell)}


def test_its_tables_list_each_package_and_no_other() -> None:
    section = (DOCS / "architecture.md").read_text().partition("## Packages")[2]
    layers, _, inner = section.partition("\n## ")[0].partition(
        "The second table lists the subpackages."
    )
    packages = {str(path.parent.relative_to(SOURCE)) for path in SOURCE.glob("*/**/__init__.py")}
    assert packages_in(layers) == {package for package in packages if "/" not in package}
    assert packages_in(inner) == {package for package in packages if "/" in package}
