"""Verilog keeps operations on whole words, and says the same as Amaranth's own conversion."""

import re

from amaranth.back import verilog as backend

from palquant.hw import verilog
from palquant.hw.mac import DotProduct


def test_words_are_masked_as_words():
    text = verilog.convert(DotProduct(32), "unit")
    assert re.search(r"& 64'h5555555555555555", text)
    assert not re.search(r"\{ *\w+\[62\], \w+\[60\]", text)


def test_module_and_ports_are_those_of_the_component():
    texts = (
        convert(DotProduct(8, (0, 3)), name="unit")
        for convert in (verilog.convert, backend.convert)
    )
    own, plain = (text.partition("\nmodule unit(")[2].split("endmodule")[0] for text in texts)
    ports = [sorted(re.findall(r"^  (?:in|out)put .*;$", text, re.M)) for text in (own, plain)]
    assert ports[0] == ports[1]
    assert len(ports[0]) == 5  # clk, rst, a, c, o


def test_text_does_not_depend_on_where_sources_lie():
    text = verilog.convert(DotProduct(4), "unit")
    assert "src =" not in text
    assert ".py" not in text
