"""docs/architecture.md names the packages that there are."""

import re

from testing.paths import DOCS, ROOT

PACKAGES = ROOT / "src" / "interaction_svc"


def test_its_table_has_each_package_and_no_other() -> None:
    page = (DOCS / "architecture.md").read_text()
    table = page.partition("## Packages")[2].partition("\n\nFurther")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {path.parent.name for path in PACKAGES.glob("*/__init__.py")}
