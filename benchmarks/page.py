"""Writes what one of the smaller measurements found, as a page and as JSON, with where and when it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Page:
    """A measurement.

    Args:
        name: of the files.
        title: of the page.
        command: that measured it.
        versions: of what was measured, by name.
    """

    name: str
    title: str
    command: str
    versions: Mapping[str, str]

    def write(
        self, output: Path, machine_before: Mapping[str, str], text: str, records: Sequence[Any]
    ) -> Path:
        """Write both files into a directory; returns the page.

        Args:
            machine_before: what `machine.describe` said before the measurement.
            text: the tables, as Markdown.
            records: what was measured, as JSON has it.
        """
        output.mkdir(parents=True, exist_ok=True)
        found = {
            "command": self.command,
            "machine": dict(machine_before),
            "versions": dict(self.versions),
            "records": list(records),
        }
        content = machine.anonymous(json.dumps(found, indent=1))
        (output / f"{self.name}.json").write_text(content + "\n", encoding="utf-8")
        page = output / f"{self.name}.md"
        lines = [
            f"# {self.title}",
            "",
            f"Written by `{self.command}`.",
            "",
            f"Machine: {_listed(machine_before)}.",
            "",
            f"Versions: {_listed(self.versions)}.",
            "",
            text,
            "",
        ]
        page.write_text("\n".join(lines), encoding="utf-8")
        return page


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
