"""Slices of channels: how a pool is computed where one row of all channels does not fit on chip.

A pool's output channel depends on the same input channel alone. So its rows may be computed slice
by slice of the channels: a buffer holds the pixels of one slice only, close together, and a
transfer takes that slice of each pixel:

    DRAM              a0 a1 a2 b0 b1 b2 c0 c1 c2 ...     pixels a, b, c of three slices
    on chip, slice 1  a1 b1 c1 ...

Slices are whole output chunks, as COMPUTE makes them. Those are whole words of residuals, and words
are whole bus beats, as transfers move them.
"""

from __future__ import annotations

from dataclasses import dataclass

from palquant.hw.config import Geometry
from palquant.sw.fuse import Member
from palquant.sw.graph import Pool
from palquant.sw.segments import Segment


@dataclass(frozen=True)
class ChannelSlice:
    """Neighbouring positions of a tensor of residuals.

    Parameters:
        first: First position.
        last: The one behind the last.
        pitch: Positions from a pixel to the next on chip: those of the largest slice.
        lanes: Positions of a word.
    """

    first: int
    last: int
    pitch: int
    lanes: int

    @property
    def first_word(self) -> int:
        """Words of a whole pixel before the slice."""
        return self.first // self.lanes

    @property
    def words(self) -> int:
        """Words of the slice of one pixel."""
        return (self.last - self.first) // self.lanes

    @property
    def pixel_words(self) -> int:
        """Words from a pixel to the next on chip."""
        return self.pitch // self.lanes

    def cut(self, segments: list[Segment], chunk: int) -> list[Segment]:
        """What of some segments, in chunks of ``chunk`` positions, lies in the slice."""
        found = []
        for segment in segments:
            low = max(self.first - segment.start, 0)
            high = min(self.last - segment.start, len(segment.outputs))
            if low < high:
                found.append(segment.part(low // chunk, high // chunk, chunk))
        return found


#: How the channels of a layer are cut; empty if they are not.
Slices = tuple[ChannelSlice, ...]


def slicings(member: Member, segments: list[Segment], geometry: Geometry) -> list[Slices]:
    """Each way to cut a layer's channels into two slices or more, the largest slices first.

    Parameters:
        member: The layer.
        segments: Its segments.
        geometry: The machine.

    Returns:
        Nothing for a layer that is no pool, or whose results do not lie where its inputs lie
        (those of a channel shuffle).
    """
    moved = any(segment.scatter > 1 or segment.base != segment.start for segment in segments)
    if moved or not isinstance(member.layer.operation, Pool) or member.layer.logits is not None:
        return []
    slots = member.reads[0].placement.slots
    chunks = slots // geometry.tout
    # Where one slice more does not make them smaller, it is of no use.
    most = sorted({-(-chunks // count) for count in range(2, chunks + 1)}, reverse=True)
    return [
        tuple(
            ChannelSlice(first, min(first + size, slots), size, geometry.lanes)
            for first in range(0, slots, size)
        )
        for size in (chunks * geometry.tout for chunks in most)
    ]
