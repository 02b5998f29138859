"""The layout of the package: what imports what, how long a file is, who knows the method."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "score_embedding"
# Each imports only those before it. `_deprecated` knows how old names warn; what they stand for is
# imported when they are used.
ORDER = (
    *(
        "_deprecated",
        "errors",
        "arrays",
        "progress",
        "sde",
        "dct",
        "frequencies",
        "atomic_files",
        "kinds",
    ),
    *("config", "data", "fokker_planck", "densities", "methods", "training"),
    *("evaluation", "runs", "report", "restoration", "results", "pipeline", "comparison"),
    *("cli", "__main__"),
)
LINES = 320
CONFIGS = {"Config", "BaselineConfig"}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """The dotted name below the package; "" is the package's own __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in modules()}


def imports(path):
    """The modules of the package that a file imports, anywhere in it (`if TYPE_CHECKING` and inside
    functions too), by their dotted names below the package, with the line."""
    here = ["score_embedding", *path.relative_to(PACKAGE).parent.parts]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from a import b`: the module a.b where there is one, else a
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix("score_embedding").lstrip(".")
                if (module, alias.name) != ("score_embedding", "__version__"):
                    names.append(f"{module}.{alias.name}" if inner in NAMES else module)
        for name in names:
            if name.split(".")[0] == "score_embedding":
                found.append((name.removeprefix("score_embedding").lstrip("."), node.lineno))
    return found


def place(name):
    """The entry of ORDER that a module belongs to: the module itself, or its package."""
    return name if name in ORDER else name.split(".")[0]


def test_the_order_names_all_that_is_there():
    assert {place(name) for name in NAMES if name} == set(ORDER)


def test_each_package_imports_only_those_before_it():
    wrong = []
    for name, path in NAMES.items():
        if name in ("", "_deprecated"):  # both load what they name when it is used
            continue
        for imported, line in imports(path):
            here, there = place(name), place(imported)
            if here != there and (not there or ORDER.index(there) > ORDER.index(here)):
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} imports {imported or 'all'}")
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: {imported for imported, _ in imports(path)} for name, path in NAMES.items()}
    for late in ("", "_deprecated"):
        graph[late] = set()
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_there_are_few_modules_at_the_top_level():
    assert len(list(PACKAGE.glob("*.py"))) <= 14


def test_no_file_is_long():
    long = {}
    for path in modules():
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines >= LINES:
            long[str(path.relative_to(PACKAGE))] = lines
    assert long == {}


def is_the_method_of_a_config(node):
    """`config.method`, `trained.config.method` and the key; not the name of a compared method."""
    if not isinstance(node, ast.Attribute):
        return False
    owner = getattr(node.value, "id", getattr(node.value, "attr", ""))
    return node.attr == "sample_method" or (node.attr == "method" and owner.endswith("config"))


def asks_for_the_method(node):
    match node:
        case ast.Compare(left, _, others):
            sides = [left, *others]
        case ast.Match(subject):
            sides = [subject]
        case ast.Call(ast.Name("isinstance"), [_, kinds]):
            named = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
            return any(getattr(kind, "attr", getattr(kind, "id", "")) in CONFIGS for kind in named)
        case _:
            return False
    return any(is_the_method_of_a_config(side) for side in sides)


def test_only_the_methods_ask_which_method_it_is():
    """`config.method` is compared, and the class of a config asked for, in methods/ and config/."""
    wrong = []
    for name, path in NAMES.items():
        if name.split(".")[0] in ("methods", "config"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if asks_for_the_method(node):
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert wrong == []
