"""The examples of docs/bundles.md: each is run as a script of its own, and prints what the page says."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import run_python

PAGE = Path(__file__).parents[2] / "docs" / "bundles.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"<!-- example: (\w+) -->")
FILE = re.compile(r"^# file: (\S+)\n")
NEEDS = re.compile(r"<!-- needs: (\w+) -->")


@dataclass(frozen=True)
class Example:
    """A section of the page: its code, the files beside it, what it prints, and the library it is about."""

    name: str
    code: str
    files: dict[str, str]
    printed: str
    needs: str | None


def examples() -> list[Example]:
    """Return the examples of the page, in their order."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return [example(section) for section in sections if "```python" in section]


def example(section: str) -> Example:
    name, needs = NAME.search(section), NEEDS.search(section)
    assert name, f"no name: {section[:60]}"
    blocks: dict[str, list[str]] = {"python": [], "text": []}
    for language, content in BLOCK.findall(section):
        blocks[language].append(content)
    files = {found[1]: block for block in blocks["python"] if (found := FILE.match(block))}
    code = "\n".join(block for block in blocks["python"] if block not in files.values())
    return Example(name[1], code, files, "".join(blocks["text"]), needs[1] if needs else None)


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_example(example: Example, tmp_path: Path) -> None:
    if example.needs and importlib.util.find_spec(example.needs) is None:
        pytest.skip(f"needs {example.needs}")
    script = tmp_path / f"{example.name}.py"
    script.write_text(example.code, encoding="utf-8")
    for name, content in example.files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")

    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}

    assert run_python(script.name, folder=tmp_path, env=environment) == example.printed
    assert (tmp_path / example.name / "MLmodel").is_file()


def test_which_there_are() -> None:
    assert [(example.name, example.needs) for example in examples()] == [
        ("spam", None),
        ("rents", None),
        ("tumours", "xgboost"),
        ("flowers", "torch"),
        ("prices", None),
    ]
