"""The geometries that have a name: for tests, for two boards, and for benchmarks."""

from __future__ import annotations

from palquant.errors import GeometryError
from palquant.hw.config import Geometry

__all__ = ["PRESETS", "geometry"]

PRESETS: dict[str, Geometry] = {
    geometry.name: geometry
    for geometry in (
        # Tests and the digits demonstration: small enough to build in seconds, wide enough for
        # 8x8-bit layers of a few thousand taps.
        Geometry(
            name="tiny",
            tin=8,
            tout=8,
            lanes=8,
            bus_bits=64,
            accumulator_bits=30,
            activation_sum_bits=22,
            threshold_bits=32,
            residual_bits=16,
            weight_words=1024,
            activation_words=8192,
            output_words=2048,
            residual_words=2048,
            parameter_slots=32,
            array_registers=2,
        ),
        # ULX3S: an ECP5-85F that has a network and its data in block RAM as well.
        Geometry(
            name="ulx3s",
            tin=16,
            tout=16,
            lanes=8,
            bus_bits=64,
            accumulator_bits=30,
            activation_sum_bits=22,
            threshold_bits=32,
            residual_bits=16,
            weight_words=512,
            activation_words=8192,
            output_words=2048,
            residual_words=2048,
            parameter_slots=16,
            array_registers=4,
        ),
        # iCEBreaker: an iCE40UP5K of 5280 logic cells, as narrow as small networks allow.
        Geometry(
            name="icebreaker",
            tin=4,
            tout=4,
            lanes=1,
            bus_bits=32,
            accumulator_bits=16,
            activation_sum_bits=14,
            threshold_bits=15,
            residual_bits=16,
            weight_words=512,
            activation_words=512,
            output_words=512,
            residual_words=512,
            parameter_slots=8,
            pool_bits=18,
            queue_depth=1,
            burst_beats=8,
            outstanding_bursts=1,
            prefetch_units=2,
            counters=False,
            array_registers=1,
            code_tensors=1,
            threshold_levels=2,
            result_bits=18,
            multiplier_bits=16,
            beat_cycles=29,
            overlap=False,
            diagnosis=False,
            checks=False,
            token_bits=3,
            count_bits=1,
            watchdog_bits=9,
            additions=False,
            weight_digits=1,
            scatter=False,
            strided=False,
            address_bits=9,
            dram_bits=17,
            extent_bits=5,
            stride_bits=3,
        ),
        # The benchmark: 1024 two-bit MACs per cycle, block RAM of an ECP5-85F.
        Geometry(
            name="kilomac",
            tin=32,
            tout=32,
            lanes=16,
            bus_bits=128,
            accumulator_bits=28,
            activation_sum_bits=21,
            threshold_bits=24,
            residual_bits=16,
            weight_words=1024,
            activation_words=32768,
            output_words=8192,
            residual_words=16384,
            parameter_slots=32,
        ),
    )
}


def geometry(name: str) -> Geometry:
    """The preset of that name.

    Raises:
        GeometryError: No preset has that name; the message lists those that exist.
    """
    try:
        return PRESETS[name]
    except KeyError:
        known = ", ".join(PRESETS)
        raise GeometryError(f"no geometry is called {name!r} (presets: {known})") from None
