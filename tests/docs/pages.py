"""The pages of the documentation, and the fenced blocks in them."""

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
    """A fenced block of a page."""

    page: str
    line: int
    kind: str
    text: str
    output: str | None = None
    """The text block that shows what a block of Python prints."""

    @property
    def title(self) -> str:
        """Return its first line, which names it in the tables of the tests."""
        return self.text.partition("\n")[0].removeprefix("$ ")

    def steps(self) -> list[tuple[str, str]]:
        """Return the commands of a console block, each with the output under it."""
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
    """Return the fenced blocks of a page, in its order."""
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
