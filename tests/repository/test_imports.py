"""No import circles, imports for type checking included."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.home import HOME

PACKAGES = ("model", "growth", "pretrain")


def test_no_module_imports_itself_by_way_of_others():
    assert circles(import_graph(HOME)) == []


def test_a_circle_is_found(tmp_path):
    """Through `import a.b`, `from a import b`, and an import for type checking alone."""
    package = tmp_path / "model"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("import model.two\n")
    (package / "two.py").write_text("def late():\n    from model import three\n")
    (package / "three.py").write_text("if TYPE_CHECKING:\n    from model.one import One\n")
    (package / "apart.py").write_text("from model.one import One\n")
    assert circles(import_graph(tmp_path)) == [{"model.one", "model.two", "model.three"}]


def import_graph(root: Path) -> dict[str, set[str]]:
    """Module -> the modules of PACKAGES that it imports, anywhere in its text."""
    files = {module_name(root, file): file for package in PACKAGES for file in (root / package).rglob("*.py")}

    def module_of(name: str) -> str | None:
        """`a.b.Class` -> `a.b`; None for another package's."""
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name or None

    return {
        module: {target for name in imported_names(file) if (target := module_of(name)) not in (None, module)}
        for module, file in files.items()
    }


def module_name(root: Path, file: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported_names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import; write it in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules that all reach each other, largest first."""
    reach = {module: reachable(graph, module) for module in graph}
    found = {frozenset({module, *(other for other in reach[module] if module in reach[other])}) for module in graph}
    return sorted((set(circle) for circle in found if len(circle) > 1), key=len, reverse=True)


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen
