"""A digest of what modules do, so that a new comment does not make an artefact outdated and new code does."""

import ast
import hashlib
from functools import lru_cache
from pathlib import Path

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]


def code_digest(*names: str, root: Path = PACKAGE_FOLDER.parent) -> str:
    """sha256, as 64 hexadecimal digits, over the syntax trees of modules, without docstrings and comments.

    The source is read, not imported. The digest holds for every Python version that parses the source alike:
    fields that are empty, which is how a newer version adds some, are left out.

    Args:
        names: modules ("layerwise.evaluation.ranking") or packages ("layerwise.models", with all below);
            their order, and a module named twice, do not matter.
        root: folder that holds the top-level package.

    Raises:
        ValueError: no name at all, or a name without source below `root`.
        SyntaxError: a source that does not parse.
    """
    if not names:
        raise ValueError("code_digest needs at least one module or package, such as 'layerwise.models'")
    digest = hashlib.sha256()
    for path in sorted({path for name in names for path in _sources(name, root)}):
        digest.update(_content(path.relative_to(root).as_posix(), path.read_bytes(), str(path)))
    return digest.hexdigest()


def with_imports(*names: str, root: Path = PACKAGE_FOLDER.parent, beside: str = "layerwise.lab") -> tuple[str, ...]:
    """The modules and all modules of the same package that they import, directly or not.

    Args:
        names: modules, such as "layerwise.lab.experiments.models".
        root: folder that holds the top-level package.
        beside: a package whose modules are not followed: how results are kept does not change them.

    Returns:
        Names of modules, sorted. Packages' own `__init__` modules are left out: they hold no code here.
    """
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += (
            imported
            for imported in _imports(name, root)
            if imported.partition(".")[0] == name.partition(".")[0] and not f"{imported}.".startswith(f"{beside}.")
        )
    return tuple(sorted(found))


def _imports(name: str, root: Path) -> set[str]:
    """Modules below `root` that a module's source imports anywhere in it."""
    (path,) = _sources(name, root)
    named = _named_in(path.read_bytes(), str(path))
    return {module for module in named if root.joinpath(*module.split(".")).with_suffix(".py").is_file()}


# Kinds of experiments share most of their modules, and each is parsed once.


@lru_cache(maxsize=1024)
def _content(name: str, source: bytes, path: str) -> bytes:
    """A module's name and what it does."""
    tree = _WithoutBareStrings().visit(ast.parse(source, filename=path))
    return repr((name, _structure(tree))).encode("utf-8")


@lru_cache(maxsize=1024)
def _named_in(source: bytes, path: str) -> frozenset[str]:
    """What a source imports, modules or parts of them."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(source, filename=path)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(imported)


def _sources(name: str, root: Path) -> list[Path]:
    place = root.joinpath(*name.split("."))
    if place.is_dir() and (sources := list(place.rglob("*.py"))):
        return sources
    module = place.with_name(place.name + ".py")
    if not module.is_file():
        raise ValueError(f"no source for {name!r}: neither {module} nor a package {place} exists")
    return [module]


class _WithoutBareStrings(ast.NodeTransformer):
    """Drops statements that are nothing but a text: docstrings, also of attributes, do nothing."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def _structure(node: object) -> object:
    """A syntax tree as nested tuples of names and values, without positions and without empty fields."""
    if isinstance(node, ast.AST):
        fields = ((field, value) for field, value in ast.iter_fields(node) if value is not None and value != [])
        return type(node).__name__, *((field, _structure(value)) for field, value in fields)
    if isinstance(node, list):
        return tuple(_structure(part) for part in node)
    return repr(node)
