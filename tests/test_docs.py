"""Whether the documents say what is."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from palquant import accuracy
from palquant.cli import build_parser
from palquant.hw import isa
from palquant.hw.presets import PRESETS
from palquant.sim.machine import machine_verilog
from palquant.sw.compile import compile_graph
from palquant.sw.model import load_model

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PACKAGES = ("golden", "hw", "sim", "sw")


def load_tables():
    specification = importlib.util.spec_from_file_location(
        "docs_tables", ROOT / "scripts/docs_tables.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


docs_tables = load_tables()


def name(path):
    return str(path.relative_to(ROOT))


def commands(text):
    """Lines of a document's shell examples."""
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def headings(path):
    """Anchors of a document's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in found}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_tables_are_up_to_date(path):
    text = path.read_text()
    assert docs_tables.fill(text) == text, "run `make docs`"


def test_every_table_has_its_place():
    used = [table for path in DOCUMENTS for table in docs_tables.markers(path.read_text())]
    assert sorted(used) == sorted(docs_tables.TABLES)


def test_a_stale_table_is_noticed():
    stale = "before\n<!-- table: opcodes -->\n| old |\n<!-- end -->\nbehind\n"
    fresh = docs_tables.fill(stale)
    assert fresh.startswith("before\n<!-- table: opcodes -->\n\n| value | name | meaning |\n")
    assert fresh.endswith("\n\n<!-- end -->\nbehind\n")
    assert "old" not in fresh
    assert docs_tables.fill(fresh) == fresh
    with pytest.raises(KeyError, match="nothing"):
        docs_tables.fill(stale.replace("opcodes", "nothing"))


def test_the_ports_are_those_of_the_verilog():
    """Names, directions, widths and constants, found in the text of the module."""
    module = re.search(r"^module palquant\(.*?^endmodule", machine_verilog(PRESETS["tiny"]),
                       re.DOTALL | re.MULTILINE)[0]  # fmt: skip
    declared = {
        port: (direction, str(int(high or 0) + 1))
        for direction, high, port in re.findall(
            r"^ +(input|output) (?:\[(\d+):0\] )?(\w+);", module, re.MULTILINE
        )
    }
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in docs_tables.TABLES["ports"]().splitlines()[2:]
    ]
    listed = {row[0].strip("`"): (f"{row[1]}put", row[2]) for row in rows}
    assert listed == declared
    constants = {
        port: str(int(value, 16))
        for port, value in re.findall(r"assign (m_axi_\w+) = \d+'h([0-9a-f]+);", module)
    }
    for row in rows:
        constant = re.match(r"Always (\d+)", row[-1])
        assert (constant and constant[1]) == constants.get(row[0].strip("`")), row


def test_constants_have_no_reset_value():
    rows = docs_tables.TABLES["registers"]()
    assert re.search(rf"`ID` .* always `{isa.MAGIC:#x}` ", rows)
    assert re.search(r"`GEOMETRY` .* by geometry ", rows)
    assert re.search(r"`.tin` .* by geometry ", rows)
    assert re.search(r"`IMAGE_COUNT` .* rw \| 1 ", rows)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        where = path.parent / file if file else path
        assert where.exists(), target
        assert not anchor or anchor in headings(where), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_that_are_named_exist(path):
    folders = "|".join((*PACKAGES, "palquant", "tests", "scripts", "docs", ".ci"))
    for file in re.findall(rf"`((?:{folders})/[\w./-]*)`", path.read_text()):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("package", PACKAGES)
def test_the_architecture_names_every_module(package):
    text = (ROOT / "docs/architecture.md").read_text()
    files = {name(path) for path in (ROOT / package).glob("*.py") if path.stem != "__init__"}
    assert files
    assert {file for file in files if f"`{file}`" not in text} == set()


def test_every_decision_is_listed():
    folder = ROOT / "docs/decisions"
    listed = re.findall(r"\]\((\S+)\)", (folder / "README.md").read_text())
    assert sorted(listed) == sorted(p.name for p in folder.glob("*.md") if p.name != "README.md")


def test_the_readme_writes_to_ignored_folders_only():
    assert "build/" in (ROOT / ".gitignore").read_text().splitlines()
    checked = 0
    for words in commands((ROOT / "README.md").read_text()):
        if words[0] == "palquant":
            files = [word for word in words[1:] if "/" in word or "." in word]
            assert files
            assert all(file.startswith("build/") for file in files), words
            checked += 1
    assert checked >= 6


def test_the_readme_makes_a_network_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(),
                            re.DOTALL | re.MULTILINE)  # fmt: skip
    exec(example, {})
    image = compile_graph(load_model("build/mine.npz"), PRESETS["tiny"])
    assert image.graph.output.name == "classifier.logits"


def test_commands_in_the_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    checked = 0
    for path in DOCUMENTS:
        for words in commands(path.read_text()):
            program = Path(words[0]).name
            if program == "make":
                assert set(words[1:2]) <= targets, words
            elif program == "palquant":
                build_parser().parse_args(words[1:])
            else:
                continue
            checked += 1
    assert checked >= 5


def test_accuracy_names_the_recipe_of_the_program():
    text = (ROOT / "docs/accuracy.md").read_text()
    epochs, seeds = accuracy.OPTIONS["epochs"], accuracy.OPTIONS["seeds"]
    assert f"**Recipe.** {epochs} epochs in batches" in text
    assert f"**Seeds.** 0 to {seeds - 1}, the same" in text
    assert f"The defaults are {len(accuracy.METHODS) * seeds} trainings" in text
    assert f"Its standard deviation is {accuracy.NOISE} of" in " ".join(text.split())
