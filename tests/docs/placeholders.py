"""Compare an output with the documented one, except for values that differ in each run.

- A line `…` matches any number of lines, and `…` within a line matches any part of that line.
- A value of a kind in `_VALUES` matches any value of the same kind. A key or secret that a command
  created replaces the documented one in all later commands and outputs of the page.

All other text has to match exactly.
"""

import re

_VALUES = {
    "key": r"\bSK[0-9a-f]{32}\b",
    "secret": r"\b(?![0-9]{32})[0-9A-Za-z]{32}\b",
    "request_id": r"\bRQ[0-9a-f]{32}\b",
    "port": r"(?<=127\.0\.0\.1:)\d+",
    "size": r"\b[\d,]+(?= bytes)",
    "time": r'(?:(?<="created":")|(?<="revoked":")|(?<="timestamp":"))[-\d]+T[:.\d]+Z',
}
_MADE = {"key", "secret"}
_PLACEHOLDER = re.compile("|".join(f"(?P<{name}>{value})" for name, value in _VALUES.items()))


class Placeholders:
    """The keys and secrets that the commands of a page created, by the documented ones."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}

    def in_command(self, command: str) -> str:
        """Return a documented command with the created keys and secrets."""
        for documented, made in self.made.items():
            command = command.replace(documented, made)
        return command

    def pattern(self, documented: str) -> re.Pattern[str]:
        """Return the pattern that the whole output has to match."""
        self._groups: dict[str, str] = {}
        lines = []
        for line in documented.splitlines():
            if line.strip() == "…":
                lines.append(r"(?:[^\n]*\n)*?")
            else:
                lines.append(r"[^\n]*".join(map(self._line, line.split("…"))) + r"\n")
        return re.compile("".join(lines))

    def learn(self, matched: re.Match[str]) -> None:
        """Remember the keys and secrets of an output that matched."""
        for documented, group in self._groups.items():
            self.made[documented] = matched[group]

    def _line(self, text: str) -> str:
        parts = []
        end = 0
        for match in _PLACEHOLDER.finditer(text):
            parts.append(re.escape(text[end : match.start()]))
            parts.append(self._value(str(match.lastgroup), match[0]))
            end = match.end()
        parts.append(re.escape(text[end:]))
        return "".join(parts)

    def _value(self, kind: str, documented: str) -> str:
        if kind not in _MADE:
            return _VALUES[kind]
        if documented in self.made:
            return re.escape(self.made[documented])
        if documented in self._groups:
            return f"(?P={self._groups[documented]})"
        self._groups[documented] = f"made_{len(self._groups)}"
        return f"(?P<{self._groups[documented]}>{_VALUES[kind]})"
