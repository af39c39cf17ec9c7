"""Which file imports which: no circle, and no arrow from a lower room to a higher one.

A room is a file or a package right below src/relook. Their order is the table in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src"

_FIGURE = "Correction.save_picture draws what a page shows of a correction"
SHORTHANDS = {
    ("relook.classifier", "relook.attribution"): "Classifier.attribution is relook.attribute",
    ("relook.attribution.seen", "relook.report.tiles"): "Seen.overlay draws the maps on the image",
    ("relook.attribution.seen", "relook.report.picture"): "Seen.save_picture draws the maps",
    ("relook.correction", "relook.report.picture"): _FIGURE,
    ("relook.correction", "relook.report.story"): _FIGURE,
    ("relook.looks.network", "relook.models.load"): "the look network:MODEL is relook.load(MODEL)",
}
"""Arrows that do point upwards, for the sake of users: a method of an object at hand, or a name in
place of an object. Each is imported in a function, when it is used, or for types alone."""


@dataclass(frozen=True)
class Arrow:
    """One import: of which module, by which, and where."""

    by: str
    of: str
    how: str
    line: int

    def __str__(self) -> str:
        return f"{self.by}:{self.line} imports {self.of} ({self.how})"


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(file): file for file in sorted((SOURCES / "relook").rglob("*.py"))}


def arrows_in(module: str, tree: ast.AST) -> set[Arrow]:
    """Every import of relook in a file; modules that are named in a text, to be imported by that
    name, are among them.
    """
    found = set()

    def add(name: str, how: str, node: ast.stmt | ast.expr) -> None:
        if name in FILES and name != module:
            found.add(Arrow(module, name, how, node.lineno))

    def visit(node: ast.AST, how: str) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name, how, node)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative imports are not used here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                add(inner if inner in FILES else str(node.module), how, node)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"relook(\.\w+)+", str(node.value)):
            if not module.startswith(f"{node.value}."):  # where a package's own templates lie
                add(str(node.value), "by name", node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for statement in node.body:
                visit(statement, "for types")
            for statement in node.orelse:
                visit(statement, how)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, "in a function" if inside else how)

    visit(tree, "at the top")
    return found


ARROWS = {
    arrow
    for module, file in FILES.items()
    for arrow in arrows_in(module, ast.parse(file.read_text(encoding="utf-8")))
}

STRAIGHT = {arrow for arrow in ARROWS if (arrow.by, arrow.of) not in SHORTHANDS}


def room_of(module: str) -> str:
    """Of relook.looks.flip and of relook.looks: looks; relook itself is the public names."""
    return module.split(".")[1] if "." in module else "__init__"


def order() -> list[str]:
    """The rooms from high to low, as the table in CONTRIBUTING.md has them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [
        name.removesuffix("/").removesuffix(".py")
        for row in rows
        for name in re.findall(r"`(.*?)`", row)
    ]


def upward(arrows: set[Arrow], rooms: list[str]) -> set[Arrow]:
    height = {room: -place for place, room in enumerate(rooms)}
    return {a for a in arrows if height[room_of(a.by)] < height[room_of(a.of)]}


def circle(arrows: set[Arrow]) -> list[str]:
    """Files that import each other; none for none."""
    graph: dict[str, set[str]] = {}
    for arrow in arrows:
        below = graph.setdefault(arrow.by, set())
        below.add(arrow.of)
        package = ".".join(arrow.of.split(".")[:2])
        if room_of(arrow.by) != room_of(arrow.of):
            below.add(package)  # its __init__ runs first
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_has_a_place_in_the_table():
    rooms = order()
    assert len(rooms) == len(set(rooms))
    assert set(rooms) == {room_of(module) for module in FILES}


def test_no_arrow_points_upwards_but_shorthands():
    found = upward(ARROWS, order())
    assert sorted(map(str, found & STRAIGHT)) == []
    assert {(arrow.by, arrow.of) for arrow in found} == set(SHORTHANDS)  # none is left over
    assert {arrow.how for arrow in found} <= {"in a function", "for types"}


def test_no_circle():
    assert circle(STRAIGHT) == []


def test_multicam_has_one_door():
    inside = {a for a in ARROWS if a.of.startswith("relook.multicam.")}
    assert {str(arrow) for arrow in inside if room_of(arrow.by) != "multicam"} == set()


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import relook.correction", "at the top"),
        ("from relook import correction", "at the top"),
        ("from relook.correction import Corrector", "at the top"),
        ("def f():\n    from relook.correction import Corrector", "in a function"),
        ("class A:\n    def f(self):\n        import relook.correction", "in a function"),
        ("if TYPE_CHECKING:\n    from relook.correction import Corrector", "for types"),
        ("if typing.TYPE_CHECKING:\n    import relook.correction", "for types"),
        ("HOMES = {'a': 'relook.correction'}", "by name"),
    ],
)
def test_these_tests_can_fail(code, how):
    [arrow] = arrows_in("relook.looks.flip", ast.parse(code))
    assert (arrow.of, arrow.how) == ("relook.correction", how)
    assert upward({arrow}, order()) == {arrow}
    assert set(circle(STRAIGHT | {arrow})) >= {"relook.looks.flip", "relook.correction"}
