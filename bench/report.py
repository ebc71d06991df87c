"""The results of a benchmark, as tables and as a plot."""

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import matplotlib as mpl
from matplotlib.figure import Figure

mpl.rcParams["svg.hashsalt"] = "interaction-svc"  # the same figures give the same file

_HEADINGS = (
    "", "median", "from, to", "floor", "must", "aim", "met", "measured", "related to",
)  # fmt: skip


class Measure(NamedTuple):
    """The ratio of each round, and its targets."""

    name: str
    ratios: list[float]
    measured: str
    """The measured value, in its own unit."""
    base: str
    """The baseline value."""
    must: float | None = None
    """The required target; None if there is none."""
    aim: float | None = None
    at_least: bool = False
    """Whether more is better."""
    floor: float | None = None
    """The lower bound: an empty response of the same size."""

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        """Return the highest target that is met: `aim`, `must`, `no`; empty if there are none."""

        def meets(target: float | None) -> bool:
            if target is None:
                return False
            return self.median >= target if self.at_least else self.median <= target

        if self.must is None:
            return ""
        return "aim" if meets(self.aim) else "must" if meets(self.must) else "no"


def table_of(measures: Sequence[Measure]) -> str:
    """Return the table of the targets."""
    rows = [_HEADINGS]
    for measure in measures:
        sign = "≥" if measure.at_least else "≤"
        must, aim = (
            "" if target is None else f"{sign} {target:g}" for target in (measure.must, measure.aim)
        )
        rows.append((
            measure.name, f"**{measure.median:.2f}**",
            f"{min(measure.ratios):.2f}, {max(measure.ratios):.2f}",
            "" if measure.floor is None else f"{measure.floor:.2f}",
            must, aim, measure.verdict, measure.measured, measure.base,
        ))  # fmt: skip
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of them headings, as a table in Markdown."""
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine() -> str:
    """Return a description of the machine and the versions."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores for servers and clients together,"
        f" {sys.platform}, Python {platform.python_version()}, grpcio {grpc.__version__}"
    )


def plot(
    file: Path,
    by_page_size: dict[str, dict[int, float]],
    by_table_size: dict[int, list[float]],
) -> None:
    """Draw ratios by page size, for each contender, and by the size of the table."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, ratios in by_page_size.items():
        left.plot(list(ratios), list(ratios.values()), marker="o", label=name)
    left.set(
        xscale="log", yscale="log", xlabel="Interactions of the answer (1: Get)",
        ylabel="server CPU, in empty RPCs", title="gRPC, by page size",
    )  # fmt: skip
    left.legend()
    smallest = statistics.median(by_table_size[min(by_table_size)])
    medians = {size: statistics.median(costs) for size, costs in by_table_size.items()}
    right.plot(list(medians), [cost / smallest for cost in medians.values()], marker="o")
    right.set(
        xscale="log", ylim=(0, 2), xlabel="rows of the table",
        ylabel="server CPU, in Gets from the smallest", title="Get, by table size",
    )  # fmt: skip
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None})
