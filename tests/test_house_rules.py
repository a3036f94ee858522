"""The whole source tree -> does it keep the rules of CONTRIBUTING.md?"""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nmcompile
from nmcompile import cli
from nmcompile.errors import NmcompileError

# Module or package -> its rank. A module imports only what has its own rank or a lower one, at
# any depth: an import inside a function counts, one under TYPE_CHECKING does not.
PLAIN, LIGHT, TORCH, PASSES, BACKENDS, COMPILE, TOP = range(7)
LAYERS = {
    "nmcompile": PLAIN,  # the package's __init__ alone
    "nmcompile.engine": PLAIN,
    "nmcompile.errors": PLAIN,
    "nmcompile.pattern": PLAIN,
    "nmcompile.plan": PLAIN,
    "nmcompile.resize": PLAIN,
    "nmcompile.assignment": LIGHT,
    "nmcompile.budget": LIGHT,
    "nmcompile.cache": LIGHT,
    "nmcompile.data": LIGHT,
    "nmcompile.images": LIGHT,
    "nmcompile.level_map": LIGHT,
    "nmcompile.metrics": LIGHT,
    "nmcompile.neighbours": LIGHT,
    "nmcompile.progress": LIGHT,
    "nmcompile.runtime": LIGHT,
    "nmcompile.sizes": LIGHT,
    "nmcompile.tasks": LIGHT,
    "nmcompile.calibration": TORCH,
    "nmcompile.capture": TORCH,
    "nmcompile.context": TORCH,
    "nmcompile.convs": TORCH,
    "nmcompile.readers": TORCH,
    "nmcompile.loading": TORCH,
    "nmcompile.pipeline": TORCH,
    "nmcompile.program": TORCH,
    "nmcompile.receptive_field": TORCH,
    "nmcompile.second_order": TORCH,
    "nmcompile.shapes": TORCH,
    "nmcompile.walking": TORCH,
    "nmcompile.training": TORCH,
    "nmcompile.passes": PASSES,
    "nmcompile.backends": BACKENDS,
    "nmcompile.report": BACKENDS,
    "nmcompile.timing": LIGHT,
    "nmcompile.assumptions": COMPILE,
    "nmcompile.drop": COMPILE,
    "nmcompile.finetuning": COMPILE,
    "nmcompile.lowering": COMPILE,
    "nmcompile.masks": COMPILE,
    "nmcompile.reassign": COMPILE,
    "nmcompile.search": COMPILE,
    "nmcompile.receipt": COMPILE,
    "nmcompile.routing": COMPILE,
    "nmcompile.routing.head": TORCH,
    "nmcompile.routing.nested": TORCH,
    "nmcompile.routing.spec": LIGHT,
    "nmcompile.precision": COMPILE,
    "nmcompile.showcase": COMPILE,
    "nmcompile.transform": COMPILE,
    "nmcompile.bench": COMPILE,
    "nmcompile.compile": COMPILE,
    "nmcompile.comparison": COMPILE,
    "nmcompile.evaluate": TORCH,
    "nmcompile.routed_bench": COMPILE,
    "nmcompile.routed_evaluation": TORCH,
    "nmcompile.isa": LIGHT,
    "nmcompile.peers": COMPILE,
    "nmcompile.cli": TOP,
    "nmcompile.__main__": TOP,
}

FILE_CAP = 400
FUNCTION_CAP = 60
ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PACKAGES = {
    "nmcompile": ROOT / "nmcompile",
    "nmcompile.passes": ROOT / "passes",
    "nmcompile.runtime": ROOT / "runtime",
}
SOURCE_FOLDERS = ("nmcompile", "passes", "runtime", "tests", "benchmarks", "examples")
NATIVE_SUFFIXES = {".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp"}
MADE_FOLDERS = {"build", "demo", "dist"}
NOT_IN_RUNTIME = {"torch", "onnx", "onnxscript", "scipy", "matplotlib", "skimage"}


def _modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            names = [package, *(part for part in parts if part != "__init__")]
            found[".".join(names)] = path
    return found


def _sources(suffixes: set[str]) -> list[Path]:
    paths = (path for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in paths if path.is_file() and path.suffix in suffixes)


MODULES = _modules()
PYTHON = _sources({".py"})
NATIVE = _sources(NATIVE_SUFFIXES)


def _rank(module: str) -> int | None:
    name = module
    while name:
        if name in LAYERS and (name != "nmcompile" or module == name):
            return LAYERS[name]
        name = name.rpartition(".")[0]
    return None


def _imports(path: Path) -> Iterator[str]:
    """Absolute names of all that a file imports, but for type checking only."""
    for node in _running_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from (_imported(str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def _running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _running_nodes(child)


def _imported(module: str, name: str) -> str:
    """The module that `from module import name` needs."""
    if module == "nmcompile" and name in nmcompile._HOME:
        return f"nmcompile.{nmcompile._HOME[name]}"
    return f"{module}.{name}" if f"{module}.{name}" in MODULES else module


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards_only(module):
    own = _rank(module)
    assert own is not None, f"{module} has no place in LAYERS at the top of this test; give it one"
    for wanted in _imports(MODULES[module]):
        if wanted.partition(".")[0] != "nmcompile":
            continue
        other = _rank(wanted)
        assert other is not None, f"{module} imports {wanted}, which has no place in LAYERS"
        assert other <= own, f"{module} (rank {own}) imports {wanted} (rank {other})"


@pytest.mark.parametrize("module", [name for name in MODULES if _rank(name) in (PLAIN, LIGHT)])
def test_lower_layers_know_no_torch(module):
    roots = {wanted.partition(".")[0] for wanted in _imports(MODULES[module])}
    assert not roots & {"torch", "onnx", "onnxscript"}
    if _rank(module) == PLAIN:
        assert roots <= {*sys.stdlib_module_names, "numpy", "nmcompile"}


@pytest.mark.parametrize("statement", ["import nmcompile", "import nmcompile.runtime"])
def test_import_is_lean(statement):
    code = f"{statement}\nimport sys\nprint(sorted({NOT_IN_RUNTIME} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", nmcompile.__all__)
def test_public_name_is_not_hidden_by_its_module(name):
    """Importing module nmcompile.capture must not turn nmcompile.capture into that module."""
    home = f"nmcompile.{nmcompile._HOME[name]}"
    code = f"import nmcompile, sys, {home}\nassert nmcompile.{name} is sys.modules['{home}'].{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_file_is_small_and_says_what_it_is(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path} has no docstring"
    assert text.count("\n") <= FILE_CAP, f"{path}: over {FILE_CAP} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_CAP, f"{path}:{node.lineno}: {node.name}: {length} lines"


@pytest.mark.parametrize("path", NATIVE, ids=lambda path: str(path.relative_to(ROOT)))
def test_native_file_is_small_and_says_what_it_is(path):
    text = path.read_text()
    assert text.startswith(("//", "/*")), f"{path} does not begin with what it is"
    assert text.count("\n") <= FILE_CAP, f"{path}: over {FILE_CAP} lines"


def test_architecture_names_every_folder():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    missing = [name for name in sorted(folders - MADE_FOLDERS) if f"{name}/" not in text]
    assert not missing, f"ARCHITECTURE.md does not mention {', '.join(missing)}"


def test_readme_links_lead_somewhere():
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", README.read_text())
    targets = [(first or second).partition("#")[0] for first, second in links]
    local = [target for target in targets if target and "://" not in target]
    missing = [target for target in local if not (ROOT / target).exists()]
    assert not missing, f"README.md links to {', '.join(missing)}, which do not exist"


def _readme_commands(program: str) -> list[list[str]]:
    """The words of every command of `program` in README's fenced blocks, without the program."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [words for line in lines if (words := _words_of(program, line)) is not None]
    assert found, f"README.md shows no command `{program}`"
    return found


def _words_of(program: str, line: str) -> list[str] | None:
    """The arguments if `line` runs `program`, up to any pipe or further command."""
    text = re.sub(r"^\s*(\$ )?\s*(\w+=\S+ )*", "", line)
    if not re.match(rf"(\S*/)?{program}( |$)", text):
        return None
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)[1:]
    ends = [index for index, word in enumerate(words) if set(word) <= set("|&;<>")]
    return words[: ends[0]] if ends else words


def test_readme_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in _readme_commands("make"):
        wanted = {word for word in words if "=" not in word}
        assert wanted <= targets, f"README.md: `make {' '.join(words)}`: no such target"


def test_readme_commands_parse():
    for words in _readme_commands("nmcompile"):
        try:
            if words != ["--version"]:
                cli.parse(words)
        except SystemExit:  # --help; wrong usage is an NmcompileError
            continue
        except NmcompileError as error:
            pytest.fail(f"README.md: `nmcompile {' '.join(words)}`: {error}")
