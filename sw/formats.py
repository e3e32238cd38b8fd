"""The memory image as text files that synthesis tools initialise memories from."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def words(data: bytes, word_bytes: int) -> Iterator[str]:
    """Words of ``word_bytes`` bytes as hexadecimal text, highest byte first, padded with 0."""
    padded = data + bytes(-len(data) % word_bytes)
    for start in range(0, len(padded), word_bytes):
        yield padded[start : start + word_bytes][::-1].hex()


def hexadecimal(data: bytes, word_bytes: int) -> str:
    """``$readmemh`` text: one word a line."""
    return "\n".join(words(data, word_bytes)) + "\n"


def mem(data: bytes, word_bytes: int) -> str:
    """Xilinx ``.mem`` text: an address line, then one word a line."""
    return "@0\n" + hexadecimal(data, word_bytes)


def coe(data: bytes, word_bytes: int) -> str:
    """Xilinx ``.coe`` text."""
    vector = ",\n".join(words(data, word_bytes))
    return f"memory_initialization_radix=16;\nmemory_initialization_vector=\n{vector};\n"


def mif(data: bytes, word_bytes: int) -> str:
    """Intel ``.mif`` text."""
    lines = [f"{address:x} : {word};" for address, word in enumerate(words(data, word_bytes))]
    return (
        f"DEPTH = {len(lines)};\nWIDTH = {8 * word_bytes};\nADDRESS_RADIX = HEX;\n"
        "DATA_RADIX = HEX;\nCONTENT BEGIN\n" + "\n".join(lines) + "\nEND;\n"
    )


#: File ending -> text of an image in words of that many bytes.
FORMATS: dict[str, Callable[[bytes, int], str]] = {"mem": mem, "coe": coe, "mif": mif}
