"""What is shipped, and who imports whom."""

import ast
import graphlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]

#: What all may import; these import nothing of the project but each other.
COMMON = ("palquant.errors", "palquant.files", "palquant.kinds", "palquant.progress")
#: Package -> modules and packages of other packages that it may import. The command may all.
DIRECTIONS = {
    "palquant.hw": {*COMMON},
    "palquant.sw": {
        *COMMON,
        "palquant.hw.config",
        "palquant.hw.isa",
        "palquant.hw.link",
        "palquant.hw.registers",
    },
    "palquant.golden": {
        *COMMON,
        "palquant.sw.graph",
        "palquant.sw.model",
        "palquant.sw.normalize",
    },
    "palquant.sim": {*COMMON, "palquant.hw", "palquant.sw", "palquant.golden.reference"},
}


def modules():
    """Import name -> file of every module of the project."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).glob("*.py"):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    return found


MODULES = modules()


def imports(path, at_run_time=False):
    """Modules that a file imports; ``at_run_time``: only those needed to import the file."""
    found = set()

    def skipped(node):
        if isinstance(node, ast.If):
            return "TYPE_CHECKING" in ast.dump(node.test)
        return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)

    def walk(node):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import in line {node.lineno}"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
        elif at_run_time and skipped(node):
            return
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text()))
    return found


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def package_of(name):
    return max((package for package in FOLDERS if within(name, package)), key=len)


def test_the_package_list_is_what_is_on_disk():
    on_disk = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(FOLDERS.values()) == on_disk
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == set(FOLDERS)
    assert not [path for folder in on_disk for path in (ROOT / folder).glob("*/*.py")], (
        "packages are flat"
    )


def test_a_wheel_holds_every_file(tmp_path):
    """All modules, type markers and C++ sources, where imports look for them."""
    source = tmp_path / "source"
    source.mkdir()
    expected = set()
    ignore = shutil.ignore_patterns("__pycache__")
    for package, folder in FOLDERS.items():
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
        for path in (source / folder).rglob("*"):
            if path.is_file():
                inside = path.relative_to(source / folder)
                expected.add(f"{package.replace('.', '/')}/{inside.as_posix()}")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "palquant = palquant.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()


def test_no_import_is_circular():
    graph = {
        name: {other for other in imports(path, at_run_time=True) if other in MODULES} - {name}
        for name, path in MODULES.items()
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert set(MODULES) <= set(order)


@pytest.mark.parametrize("package", DIRECTIONS)
def test_imports_point_downwards(package):
    own = {name: path for name, path in MODULES.items() if package_of(name) == package}
    assert len(own) > 1
    wrong = [
        f"{name} imports {other}"
        for name, path in own.items()
        for other in imports(path)
        if within(other, "palquant")
        and package_of(other) != package
        and not any(within(other, allowed) for allowed in DIRECTIONS[package])
    ]
    assert not wrong


def test_what_all_may_import_depends_on_nothing():
    for name in COMMON:
        assert {other for other in imports(MODULES[name]) if within(other, "palquant")} <= {*COMMON}


def test_only_golden_imports_torch():
    users = {package_of(name) for name, path in MODULES.items()
             if any(within(other, "torch") for other in imports(path))}  # fmt: skip
    assert users == {"palquant.golden"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import palquant, palquant.errors, palquant.files, palquant.kinds",
         ["numpy", "torch", "amaranth"]),
        ("import palquant.hw.config, palquant.hw.isa, palquant.hw.registers",
         ["numpy", "torch", "amaranth"]),
        ("import palquant.sw.compile, palquant.sw.emulator", ["torch", "amaranth"]),
        ("import palquant.golden.train, palquant.golden.export", ["amaranth"]),
    ],
)  # fmt: skip
def test_imports_are_as_light_as_promised(statement, absent):
    probe = f"{statement}\nimport sys\nprint([name for name in {absent} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_constraints_pin_the_whole_environment():
    """Each direct or indirect requirement has exactly one version, and it is the installed one."""
    text = (ROOT / "constraints.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", text, re.MULTILINE))
    assert len(pins) == len([line for line in text.splitlines() if line[0] != "#"])
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    todo = [("palquant", "dev"), ("palquant", "fpga")]
    seen = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in importlib.metadata.requires(name) or []:
            item = Requirement(line)
            if item.marker is None or item.marker.evaluate({"extra": extra}):
                child = item.name.lower().replace("_", "-")
                todo += [(child, wanted) for wanted in ("", *item.extras)]
    names = {name for name, _ in seen} - {"palquant"}
    assert len(names) > 20
    installed = {name: importlib.metadata.version(name).split("+")[0] for name in names}
    assert {name: pins.get(name) for name in names} == installed
    # Build tools are no requirement of the package, but made it.
    assert set(pins) - names == {"setuptools"} - names
