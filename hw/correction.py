"""From code products to values: v = alpha * P - beta * S, the one correction for all weight types.

Weights are w = alpha * c - beta with codes c, so that a dot product of activations a and weights
is alpha * sum(a * c) - beta * sum(a): see ``docs/numerics.md``, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from palquant.hw.banks import ConfigurationBanks
from palquant.hw.config import Geometry
from palquant.hw.delay import delay_line, lane_registers, lane_stage
from palquant.hw.isa import Source
from palquant.hw.layouts import Configuration

__all__ = ["Correction", "compute"]


def compute(product: int, activation_sum: int, fields: Mapping[str, int]) -> int:
    """The value of one lane: ``alpha * product - beta * activation_sum``; POOL: ``product``.

    Parameters:
        product: P, or the reduced residuals.
        activation_sum: S.
        fields: ``source``, ``alpha_shift``, ``beta_shift`` and ``beta_minus`` of the COMPUTE.
    """
    if fields["source"] == Source.POOL:
        return product
    beta = (1 << fields["beta_shift"]) - fields["beta_minus"]
    return (product << fields["alpha_shift"]) - beta * activation_sum


class Correction(wiring.Component):
    """Computes ``alpha * P - beta * S`` for one beat a cycle, or passes pooled values on.

    Values wrap at ``value_bits``; that they fit is proved for each layer when it is compiled.

    Parameters:
        geometry: Sizes of the machine.

    Members:
        configuration: ``In(Configuration(geometry))``.
        valid: ``In(1)``, a beat comes.
        tag: ``In(1)``, its configuration bank.
        products: ``In(signed(value_bits)).array(lanes)``, P or pooled values, ``VALUE_DELAY``
            cycles later.
        activation_sum: ``In(activation_sum_bits)``, S, likewise.
        values: ``Out(signed(value_bits)).array(lanes)``, ``LATENCY`` cycles after ``valid``, and
            until the next beat's.
    """

    #: Cycles from ``valid`` to ``products``.
    VALUE_DELAY = 1
    #: Cycles from ``valid`` to ``values``.
    LATENCY = 4

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        lanes, bits = geometry.lanes, geometry.value_bits
        super().__init__(
            {
                "configuration": In(Configuration(geometry)),
                "valid": In(1),
                "tag": In(1),
                "products": In(signed(bits)).array(lanes),
                "activation_sum": In(geometry.activation_sum_bits),
                "values": Out(signed(bits)).array(lanes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Three stages: both parts of beta * S, for all lanes; their difference; P minus that."""
        m = Module()
        g = self.geometry
        banks = ConfigurationBanks(
            self.geometry,
            m,
            self.configuration,
            ("source", "alpha_shift", "beta_shift", "beta_minus"),
        )
        stays = g.settles
        fields = banks.select(delay_line(m, self.tag, 1, name="tag", stays=stays)[-1])
        array = fields["source"] == Source.ARRAY

        shape = signed(g.value_bits)
        shifted, beta_sum = (
            Signal(shape, name=name, reset_less=True) for name in ("shifted", "beta_sum")
        )
        once = Signal.like(self.activation_sum, reset_less=True)
        alpha_shift = Signal(reset_less=True)
        valid = delay_line(m, self.valid, 3, name="valid", reset=True)
        parts = [
            shifted.eq(Mux(array, self.activation_sum << fields["beta_shift"], 0)),
            once.eq(Mux(array & fields["beta_minus"], self.activation_sum, 0)),
            alpha_shift.eq(array & fields["alpha_shift"]),
        ]
        if stays:
            m.d.comb += parts
        else:
            with m.If(valid[1]):
                m.d.sync += parts
        first, second, third = (
            lane_stage(m, valid, stage, g.lanes, "lane_valid", together=stays)
            for stage in (1, 2, 3)
        )
        products = lane_registers(m, first, "product", shape, self.products, stays=stays)
        with m.If(valid[2]):
            m.d.sync += beta_sum.eq(shifted - once)
        scaled = [Mux(alpha_shift, product << 1, product) for product in products]
        scaled = lane_registers(m, second, "scaled", shape, scaled, stays=stays)
        values = lane_registers(m, third, "value", shape, [one - beta_sum for one in scaled])
        m.d.comb += [port.eq(value) for port, value in zip(self.values, values, strict=True)]
        return m
