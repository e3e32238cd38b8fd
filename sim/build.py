"""Builds simulators, and keeps them: a build whose inputs are all the same is never repeated.

A build's key is a hash of everything that goes into it: the Verilog text, the C++ sources, the
options and the versions of the tools. Builds are made aside and moved into place when complete,
under a lock, so that parallel test runs neither see half a build nor do the work twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from palquant.errors import OutputError, ToolError
from palquant.files import make_folder, replace_folder
from palquant.sim import process
from palquant.sim.netlist import randomize_power_on, register_reset
from palquant.sim.toolchain import Toolchain, find_toolchain, require_wave_headers

#: Environment variable that names the cache folder.
CACHE_VARIABLE = "PALQUANT_CACHE"
#: The Verilog module that is the machine.
TOP = "palquant"

_SOURCES = Path(__file__).parent
_DRIVER_SOURCES = ("driver.cpp", "options.cpp", "memory.cpp")
_DRIVER_HEADERS = ("bench.h", "lite.h", "memory.h", "options.h", "ports.h", "profile.h", "replay.h")

#: File in a build's folder that says how many seconds the build took.
_SECONDS = "seconds"

#: Verilator's options for every build. Values at power-on are random (``--x-initial unique``);
#: assignments of X, which the gateware has none of, may become whatever is fastest. Warnings do not
#: end a build: generated Verilog gives many about widths and names that no person would write. The
#: tests lint it apart from builds, where all classes of warnings but a short list are errors.
VERILATOR_OPTIONS = (
    "-O3", "--x-assign", "fast", "--x-initial", "unique", "--no-assert", "-Wno-fatal", "-Wno-lint",
    "-Wno-style",
)  # fmt: skip

#: Compiler flags of all C++. Measured on the benchmark geometry: -O2 and -O3 compile for half as
#: long again and run within 5 %; -Os runs a third slower; -march=native gains nothing.
COMPILER_FLAGS = "-O1"


def cache_folder() -> Path:
    """Where builds are kept.

    ``$PALQUANT_CACHE`` if set; ``build/verilator`` in a checkout of this project (the current
    folder has its ``pyproject.toml``); else ``~/.cache/palquant``.
    """
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).absolute()
    project = Path("pyproject.toml")
    with contextlib.suppress(OSError):
        if project.is_file() and 'name = "palquant"' in project.read_text():
            return Path("build/verilator").absolute()
    return Path.home() / ".cache" / "palquant"


@contextlib.contextmanager
def use_cache(cache: Path) -> Iterator[None]:
    """A block that reads and writes the cache.

    Raises:
        OutputError: It cannot; the message says how to move the cache.
    """
    try:
        yield
    except OSError as error:
        reason = error.__cause__ if isinstance(error, OutputError) else error
        text = reason.strerror if isinstance(reason, OSError) else None
        raise OutputError(
            f"{cache}: cannot use this folder as the simulator cache ({text or error}); "
            f"{CACHE_VARIABLE} names another one"
        ) from error


@dataclass(frozen=True)
class Recipe:
    """Everything that determines one build.

    Parameters:
        label: What is built, for people.
        files: Name to contents: what the build folder holds at the start.
        verilator: Verilator's arguments, with file names relative to the build folder.
        prefix: Name of the generated class and makefile.
        product: The file that the build makes.
        shared: C++ sources that do not depend on the machine: compiled once for all machines.
    """

    label: str
    files: dict[str, bytes]
    verilator: tuple[str, ...]
    prefix: str
    product: str
    shared: tuple[str, ...] = ()

    def key(self, toolchain: Toolchain) -> str:
        """Name of the build: equal inputs, equal name."""
        parts = [self.runtime_key(toolchain).encode()]
        for name, contents in sorted(self.files.items()):
            parts += [name.encode(), contents]
        return digest(parts)

    def runtime_key(self, toolchain: Toolchain) -> str:
        """Name of the compiled code that does not depend on the machine.

        That is Verilator's runtime library, and the shared sources.
        """
        options = (toolchain.versions, COMPILER_FLAGS, self.prefix, self.product, *self.verilator)
        parts = [item.encode() for item in options]
        for name, contents in sorted(self.files.items()):
            if name in self.shared or name.endswith(".h"):
                parts += [name.encode(), contents]
        return digest(parts)


def digest(parts: Sequence[bytes]) -> str:
    """Name of what is made from these parts: a hash of them all."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()[:24]


def package_sources(*packages: ModuleType) -> list[bytes]:
    """Names and contents of packages' Python files, as parts of a :func:`digest`."""
    parts = []
    for package in packages:
        assert package.__file__ is not None
        for path in sorted(Path(package.__file__).parent.glob("*.py")):
            parts += [path.name.encode(), path.read_bytes()]
    return parts


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make(recipe: Recipe, cache: Path | None = None) -> Path:
    """The product of a recipe, built now or earlier.

    Parameters:
        recipe: What to build.
        cache: Folder of builds; :func:`cache_folder` if None.

    Raises:
        ToolError: A tool is missing, or failed; the message ends with its last words.
        OutputError: The cache cannot be written.
    """
    toolchain = find_toolchain()
    cache = cache_folder() if cache is None else cache
    key = recipe.key(toolchain)
    product = cache / key / recipe.product
    with use_cache(cache):
        if product.is_file():
            return product
        make_folder(cache)
        with _locked(cache / f"{key}.lock"):
            if not product.is_file():
                _build(recipe, toolchain, product.parent)
    return product


def build_seconds(product: Path) -> float:
    """How long the build of a product took, now or when it was made."""
    return float((product.parent / _SECONDS).read_text())


def _build(recipe: Recipe, toolchain: Toolchain, target: Path) -> None:
    with replace_folder(target) as aside:
        for name, contents in recipe.files.items():
            (aside / name).write_bytes(contents)
        line = process.ProgressLine(f"building {recipe.label}")
        commands: list[Sequence[str]] = [
            [str(toolchain.verilator), "--cc", "--exe", "--Mdir", str(aside),
             "--prefix", recipe.prefix, "-o", recipe.product, *recipe.verilator],
            [toolchain.make, "-C", str(aside), "-f", f"{recipe.prefix}.mk",
             "-j", str(os.cpu_count() or 1), f"CXX={toolchain.compiler}",
             f"OPT_FAST={COMPILER_FLAGS}",
             f"OPT_GLOBAL={COMPILER_FLAGS}"],
        ]  # fmt: skip
        log = aside / "build.log"
        began = time.monotonic()
        runtime = target.parent / f"runtime-{recipe.runtime_key(toolchain)}"
        for command in commands:
            if command[0] == toolchain.make and runtime.is_dir():
                for item in runtime.iterdir():
                    shutil.copyfile(item, aside / item.name)
            status = process.run(
                command,
                log=log,
                label=f"building {recipe.label}",
                environment=toolchain.environment(),
                folder=aside,
                progress=line.update,
            )
            if status != 0:
                name = Path(command[0]).name
                kept = log.rename(target.with_suffix(".log"))
                raise ToolError(
                    f"building {recipe.label}: {name} failed with status {status}: "
                    f"{process.complaint(kept)} (all it said: {kept})"
                )
        line.finish()
        (aside / _SECONDS).write_text(f"{time.monotonic() - began:.3f}")
        _keep_runtime(recipe, aside, runtime)
        # Objects are several times the size of the program.
        for item in aside.iterdir():
            if item.suffix in (".o", ".a", ".gch", ".d") or item.name.startswith("."):
                item.unlink()


def _keep_runtime(recipe: Recipe, build: Path, runtime: Path) -> None:
    """Store objects that other machines' builds need as well: most of a small build's time."""
    with _locked(runtime.with_name(f"{runtime.name}.lock")):
        if runtime.is_dir():
            return
        with replace_folder(runtime) as aside:
            shared = [build / Path(name).with_suffix(".o") for name in recipe.shared]
            for item in (*build.glob("verilated*.o"), *shared):
                shutil.copyfile(item, aside / item.name)


def driver_recipe(verilog: str, *, label: str, waves: bool = False) -> Recipe:
    """How to build the fast driver around a machine.

    Parameters:
        verilog: The machine, with top module :data:`TOP` and the ports of ``hw.top``.
        label: What it is, for people.
        waves: Whether it can record waveforms (FST); costs speed.
    """
    names = (*_DRIVER_SOURCES, *_DRIVER_HEADERS)
    files = {name: (_SOURCES / name).read_bytes() for name in names}
    files[f"{TOP}.v"] = register_reset(randomize_power_on(verilog), TOP).encode()
    options = [*VERILATOR_OPTIONS, "--top-module", TOP, "-CFLAGS", "-std=c++20"]
    if waves:
        options += ["--trace-fst", "--trace-structs"]
    return Recipe(
        label=label,
        files=files,
        verilator=(*options, f"{TOP}.v", *_DRIVER_SOURCES),
        prefix=f"V{TOP}",
        product="simulator",
        shared=("memory.cpp", "options.cpp"),
    )


def build_driver(verilog: str, *, label: str, waves: bool = False) -> Path:
    """The fast driver around a machine, built or found.

    Parameters:
        verilog: The machine, with top module :data:`TOP` and the ports of ``hw.top``.
        label: What it is, for people.
        waves: Whether it can record waveforms (FST); costs speed.

    Returns:
        Path of the executable; ``options.h`` describes its command line.

    Raises:
        ToolError: A tool (or, for waves, a header) is missing, or a build failed.
    """
    if waves:
        require_wave_headers(find_toolchain())
    return make(driver_recipe(verilog, label=label, waves=waves))
