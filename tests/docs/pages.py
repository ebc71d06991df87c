"""Read the pages of the documentation and their fenced code blocks."""

import re
import textwrap
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "clients/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
]
RUN_KINDS = {"console", "python", "js"}
SHOWN_KINDS = {"", "text", "json", "yaml", "toml", "sql"}

_FENCED = re.compile(
    r"^(?P<indent> *)```(?P<kind>\S*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page."""

    page: str
    line: int
    kind: str
    text: str
    output: str | None = None
    """The expected output of a Python block: the text block after it."""

    @property
    def title(self) -> str:
        """Return the first line, by which the tests name the block."""
        return self.text.partition("\n")[0].removeprefix("$ ")

    def steps(self) -> list[tuple[str, str]]:
        """Return each command of a console block with its expected output."""
        steps: list[tuple[str, str]] = []
        for line in self.text.splitlines(keepends=True):
            if line.startswith("$ "):
                steps.append((line[2:].rstrip("\n"), ""))
            else:
                assert steps, f"{self.page}:{self.line}: a console block begins with a command"
                command, output = steps[-1]
                steps[-1] = command, output + line
        return steps


def blocks_of(page: str) -> list[Block]:
    """Return the fenced code blocks of a page, in page order."""
    content = (ROOT / page).read_text()
    found = list(_FENCED.finditer(content))
    blocks = []
    for match, following in zip_longest(found, found[1:]):
        output = None
        if match["kind"] == "python" and following is not None and following["kind"] == "text":
            between = content[match.end() : following.start()].strip()
            if between in ("", "It prints:"):
                output = textwrap.dedent(following["text"])
        line = content.count("\n", 0, match.start()) + 1
        blocks.append(Block(page, line, match["kind"], textwrap.dedent(match["text"]), output))
    return blocks
