"""The post-processor's per-instruction settings: two banks, chosen by the tag of the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from amaranth import Module, Mux, Signal, Value

from palquant.hw.config import Geometry

__all__ = ["ConfigurationBanks"]


class ConfigurationBanks:
    """Registers that hold chosen fields of two COMPUTE instructions.

    Two COMPUTEs can be in the post-processor at a time. Each writes its bank before its first
    result, and every beat carries the tag of its bank, so that a stage looks up what holds for
    the beat that it works on. A field written in one cycle can be looked up in the next.

    Where instructions do not overlap, fields stay as they are until the COMPUTE is complete, and
    there are no registers.

    Parameters:
        geometry: Sizes of the machine.
        m: Module that the registers belong to.
        configuration: The interface, a :class:`~palquant.hw.layouts.Configuration`, whose
            strobe writes a bank.
        names: Fields of ``isa.COMPUTE`` to keep.

    Attributes:
        names: The fields kept.
    """

    def __init__(
        self, geometry: Geometry, m: Module, configuration: Any, names: Iterable[str]
    ) -> None:
        self.names = tuple(names)
        if not geometry.overlap:
            self._banks = [{name: configuration.fields[name] for name in self.names}]
            return
        # One signal for each field rather than a wide structure: simulators handle those faster.
        self._banks = [
            {
                name: Signal(
                    configuration.fields[name].shape(), name=f"bank{tag}_{name}", reset_less=True
                )
                for name in self.names
            }
            for tag in range(2)
        ]
        for tag, bank in enumerate(self._banks):
            with m.If(configuration.valid & (configuration.tag == tag)):
                for name, register in bank.items():
                    m.d.sync += register.eq(configuration.fields[name])

    def select(self, tag: Value, *names: str) -> dict[str, Value]:
        """The bank of ``tag``: each field of ``names``, or every field, as a value."""
        return {
            name: Mux(tag, self._banks[-1][name], self._banks[0][name])
            for name in names or self.names
        }
