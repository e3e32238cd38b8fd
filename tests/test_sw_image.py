"""Memory images on disk: what is written comes back, and whatever is damaged is refused."""

import dataclasses
import json
import os

import numpy as np
import pytest
from networks import Builder, drawer

from palquant.errors import GeometryError, ImageError, OutputError
from palquant.golden.reference import predict
from palquant.hw import isa
from palquant.hw.presets import PRESETS
from palquant.sw.compile import compile_graph
from palquant.sw.emulator import Emulator
from palquant.sw.graph import Graph
from palquant.sw.header import check_image, seal
from palquant.sw.image import _checksums, load_image, save_image
from palquant.sw.model import save_model

TINY = PRESETS["tiny"]


def small_network():
    b = Builder(drawer(5))
    x = b.affine("r0", b.convolution("stem", b.start(1, 4, 4), 10, 8))
    b.classifier(x, 3)
    return b


@pytest.fixture(scope="module")
def builder():
    return small_network()


@pytest.fixture(scope="module")
def image(builder):
    return compile_graph(builder.graph(), TINY)


@pytest.fixture
def folder(image, tmp_path):
    save_image(image, tmp_path / "image")
    return tmp_path / "image"


def test_round_trip(builder, image, folder):
    again = load_image(folder)
    assert again.data == image.data
    assert again.geometry == TINY
    assert again.layers == image.layers
    output = Emulator(TINY, again.data).run(again.pack_input(builder.codes))
    for name in image.tensors:
        assert np.array_equal(again.unpack(output, name), builder.values[name])
    logits = builder.values["logits"][:, :, 0, 0] * builder.nodes[-1].scale
    assert again.predict(output).tolist() == logits.argmax(axis=1).tolist()


def test_what_the_host_adds_to_logits(builder, tmp_path):
    """The manifest has it, and the class is that of the reference."""
    integers = builder.values["logits"]
    graph = builder.graph()
    worst = int(graph.output.real(integers)[0, :, 0, 0].argmin())
    rest = np.zeros(integers.shape[1])
    rest[worst] = 2 * np.ptp(graph.output.real(integers))
    graph = Graph([*graph.nodes[:-1], dataclasses.replace(graph.output, rest=rest)])
    image = compile_graph(graph, TINY)
    output = Emulator(TINY, image.data).run(image.pack_input(builder.codes))
    assert image.predict(output)[0] == worst
    assert image.predict(output).tolist() == predict(graph, {"logits": integers}).tolist()
    save_image(image, tmp_path / "image")
    described = json.loads((tmp_path / "image" / "manifest.json").read_text())["output"]
    assert described["rests"] == rest.tolist()
    assert described["scales"] == graph.output.scale.tolist()
    assert load_image(tmp_path / "image").graph.output.rest.tolist() == rest.tolist()


def test_hex_holds_the_same_bytes(image, folder):
    lines = (folder / "image.hex").read_text().split()
    data = b"".join(bytes.fromhex(line)[::-1] for line in lines)
    assert data[: len(image.data)] == image.data


def test_compilation_is_deterministic(builder, image):
    assert compile_graph(builder.graph(), TINY).data == image.data


def test_an_image_is_replaced_as_a_whole(image, folder):
    (folder / "image.hex").write_text("x")
    save_image(image, folder)
    assert (folder / "image.hex").stat().st_size > 1
    assert sorted(os.listdir(folder)) == ["image.bin", "image.hex", "manifest.json", "model.npz"]
    assert os.listdir(folder.parent) == ["image"]


def test_a_folder_with_other_files_is_left_alone(image, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="holds other files"):
        save_image(image, tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_beside_an_image_is_not_lost(image, folder):
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(OutputError, match="holds other files"):
        save_image(image, folder)
    assert (folder / "notes.txt").read_text() == "precious"


def test_a_file_in_the_way_is_refused(image, tmp_path):
    (tmp_path / "image").write_text("x")
    with pytest.raises(OutputError, match="exists and is no directory"):
        save_image(image, tmp_path / "image")


def test_a_full_disk_leaves_nothing_behind(image, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match="cannot write: No space left on device"):
        save_image(image, tmp_path / "image")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("position", [0, 5, 9, 14, 20, 29, 40, -1])
def test_every_damaged_byte_is_noticed(image, folder, position):
    data = bytearray(image.data)
    data[position] ^= 0x10
    (folder / "image.bin").write_bytes(bytes(data))
    with pytest.raises(ImageError, match=r"image\.bin: "):
        load_image(folder)


def test_a_truncated_image_says_so(image, folder):
    (folder / "image.bin").write_bytes(image.data[:-7])
    size = len(image.data)
    text = f"holds {size - 7} bytes, but its header says {size}: truncated or corrupted$"
    with pytest.raises(ImageError, match=text):
        load_image(folder)
    (folder / "image.bin").write_bytes(image.data[:10])
    with pytest.raises(ImageError, match="10 bytes, less than a header of 64"):
        load_image(folder)


def test_a_folder_that_is_missing_is_named(folder):
    for path, text in ((folder / "no", "there is no such folder"),
                       (folder / "image.bin", "is no folder")):  # fmt: skip
        with pytest.raises(ImageError) as caught:
            load_image(path)
        assert str(caught.value) == f"{path}: {text}; expected a memory image (palquant compile)"


def test_another_geometry_is_refused(image):
    other = dataclasses.replace(TINY, name="other", weight_words=2048)
    with pytest.raises(ImageError, match=r"built for geometry 0x[0-9a-f]+, but other is 0x"):
        check_image(image.data, other)
    with pytest.raises(ImageError, match=r"built for geometry 0x[0-9a-f]+, but other is 0x"):
        Emulator(other, image.data)


@pytest.mark.parametrize("field", ["magic", "version"])
def test_the_emulator_checks_the_header(image, field):
    header = isa.IMAGE_HEADER.decode(image.data[: isa.HEADER_BYTES])
    data = isa.IMAGE_HEADER.encode(header | {field: 7}) + image.data[isa.HEADER_BYTES :]
    with pytest.raises(ImageError, match=f"image: {field} is 0x7, expected"):
        Emulator(TINY, data)


@pytest.mark.parametrize("region", ["input", "output"])
def test_header_and_manifest_agree_on_the_regions(image, tmp_path, region):
    header = isa.IMAGE_HEADER.decode(image.data[: isa.HEADER_BYTES])
    header[f"{region}_bytes"] += 8
    other = dataclasses.replace(image, data=seal(header, image.data[isa.HEADER_BYTES :]))
    save_image(other, tmp_path / "other")
    with pytest.raises(
        ImageError, match=rf"{region} region of \d+ bytes, image\.bin's header says"
    ):
        load_image(tmp_path / "other")


def test_another_networks_image_is_refused(folder, tmp_path):
    b = small_network()
    b.add(dataclasses.replace(b.nodes.pop(), offset=np.arange(3)))
    save_image(compile_graph(b.graph(), TINY), tmp_path / "other")
    (folder / "image.bin").write_bytes((tmp_path / "other" / "image.bin").read_bytes())
    with pytest.raises(ImageError, match=r"image\.bin: differs from its SHA-256"):
        load_image(folder)


DAMAGED = "is no manifest of a memory image, or is damaged"


def edit(folder, change, sign=True):
    """Change the manifest, with checksums that fit again unless told otherwise."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    if sign:
        files = {name: (folder / name).read_bytes() for name in ("image.bin", "model.npz")}
        document["checksums"] = _checksums(document, files)
    path.write_text(json.dumps(document))


def test_any_change_of_the_manifest_is_noticed(folder):
    edit(folder, lambda m: m["tensors"][-1].update(offset=0), sign=False)
    with pytest.raises(ImageError, match=r"manifest\.json: differs from its SHA-256"):
        load_image(folder)


def test_another_networks_model_is_refused(folder):
    b = small_network()
    b.add(dataclasses.replace(b.nodes.pop(), offset=np.arange(3)))
    save_model(b.graph(), folder / "model.npz")
    with pytest.raises(ImageError, match=r"model\.npz: differs from its SHA-256"):
        load_image(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.pop("tensors"), DAMAGED),
        (lambda m: m.update(tensors=[]), "does not say where the result lies"),
        (lambda m: m.update(layers=[]), "lists no layer"),
        (lambda m: m.update(format="other"), "format 'other'"),
        (lambda m: m.update(version=99), "version 99"),
        (
            lambda m: m["tensors"][0].pop("offset"),
            DAMAGED,
        ),
        (lambda m: m["tensors"][0].update(offset=10**9), "lies at 1000000000"),
        (lambda m: m["tensors"][0].update(name="other"), "is not in the model"),
        (lambda m: m["tensors"][0].update(bits=13), "the model has TensorType"),
        (lambda m: m["tensors"][0]["shape"].update(height=1), "the model has Shape"),
        (
            lambda m: m["tensors"][0].update(span=0),
            DAMAGED,
        ),
        (
            lambda m: m["tensors"][0].update(channel_slots="x"),
            DAMAGED,
        ),
        (lambda m: m["tensors"][0]["channel_slots"].__setitem__(0, 99), "outside 1 groups of 16"),
        (lambda m: m["tensors"][0]["channel_slots"].__setitem__(0, 1), "two channels in one place"),
        (
            lambda m: m["layers"][0].update(extra=1),
            DAMAGED,
        ),
        (lambda m: m["layers"][0].update(outputs=[]), "a tensor that no layer makes"),
        (
            lambda m: m["regions"]["output"].update(bytes_per_image="x"),
            DAMAGED,
        ),
        (lambda m: m["input"].update(gathered_by="nope"), "'nope' is no convolution"),
    ],
)
def test_a_contradictory_manifest_is_refused(folder, change, text):
    edit(folder, change)
    with pytest.raises(ImageError, match=text):
        load_image(folder)


def test_deeply_nested_json_is_refused(folder):
    (folder / "manifest.json").write_text("not JSON")
    with pytest.raises(ImageError, match=r"or is damaged \(Expecting value: line 1 column 1"):
        load_image(folder)
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ImageError, match=DAMAGED):
        load_image(folder)


def test_an_impossible_geometry_in_a_manifest_is_refused(folder):
    edit(folder, lambda m: m["geometry"].update(tin=7))
    with pytest.raises(GeometryError, match="tin must be a power of two, not 7"):
        load_image(folder)


@pytest.mark.parametrize("name", ["image.bin", "manifest.json", "model.npz"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ImageError, match=f"{name}: cannot read"):
        load_image(folder)


def test_garbage_is_no_manifest(folder):
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ImageError, match=r"manifest\.json"):
        load_image(folder)
