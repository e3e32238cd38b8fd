"""An AXI4-Lite host for Amaranth's simulator."""

import random

from amaranth import Cat


class LiteHost:
    """Reads and writes registers, with random pauses on all channels.

    Parameters:
        bus: Interface with the signals of ``palquant.hw.axi.Lite``.
        stall: Probability that a channel pauses for a cycle.
    """

    def __init__(self, bus, *, stall=0.0, seed=0):
        self.bus, self.stall = bus, stall
        self.random = random.Random(seed)

    async def write(self, ctx, address, value, strobe=0b1111):
        """Write; returns the response."""
        bus = self.bus
        ctx.set(bus.awaddr, address)
        ctx.set(bus.wdata, value)
        ctx.set(bus.wstrb, strobe)
        waiting = {"aw", "w"}
        while waiting:
            for channel in sorted(waiting):
                if self.random.random() >= self.stall:
                    ctx.set(getattr(bus, channel + "valid"), 1)
            _, _, *done = await ctx.tick().sample(
                bus.awvalid & bus.awready, bus.wvalid & bus.wready
            )
            for channel, gone in zip(("aw", "w"), done, strict=True):
                if gone:
                    waiting.discard(channel)
                    ctx.set(getattr(bus, channel + "valid"), 0)
        return await self._response(ctx, "b", bus.bresp)

    async def write_all(self, ctx, writes, *, aw=0.0, w=0.0, b=0.0):
        """Write one behind the other, as fast as the bus takes them.

        Addresses do not wait for data, nor data for addresses, nor either for responses.

        Parameters:
            writes: (address, value, strobe) of each.
            aw, w, b: Probability that the channel pauses for a cycle.

        Returns:
            The responses, and the cycles until the last one.
        """
        bus, cycles, responses = self.bus, 0, []
        waiting = {"aw": list(writes), "w": list(writes)}
        while len(responses) < len(writes):
            for channel, stall in (("aw", aw), ("w", w)):
                valid = getattr(bus, channel + "valid")
                if not waiting[channel] or ctx.get(valid) or self.random.random() < stall:
                    continue
                address, value, strobe = waiting[channel][0]
                if channel == "aw":
                    ctx.set(bus.awaddr, address)
                else:
                    ctx.set(bus.wdata, value)
                    ctx.set(bus.wstrb, strobe)
                ctx.set(valid, 1)
            ctx.set(bus.bready, self.random.random() >= b)
            _, _, address, data, response, code = await ctx.tick().sample(
                bus.awvalid & bus.awready,
                bus.wvalid & bus.wready,
                bus.bvalid & bus.bready,
                bus.bresp,
            )
            cycles += 1
            for channel, gone in (("aw", address), ("w", data)):
                if gone:
                    waiting[channel].pop(0)
                    ctx.set(getattr(bus, channel + "valid"), 0)
            responses += [code] * response
            assert cycles < 100 * len(writes), "a write is not answered"
        ctx.set(bus.bready, 0)
        return responses, cycles

    async def read(self, ctx, address):
        """Read; returns the value and the response."""
        bus = self.bus
        ctx.set(bus.araddr, address)
        ctx.set(bus.arvalid, 1)
        _, _, ready = await ctx.tick().sample(bus.arready)
        while not ready:
            _, _, ready = await ctx.tick().sample(bus.arready)
        ctx.set(bus.arvalid, 0)
        answer = await self._response(ctx, "r", Cat(bus.rresp, bus.rdata))
        return answer >> len(bus.rresp), answer & ((1 << len(bus.rresp)) - 1)

    async def _response(self, ctx, channel, signal):
        valid, ready = getattr(self.bus, channel + "valid"), getattr(self.bus, channel + "ready")
        before = None
        while True:
            ctx.set(ready, self.random.random() >= self.stall)
            _, _, was_valid, was_ready, response = await ctx.tick().sample(valid, ready, signal)
            assert before is None or (was_valid, response) == (1, before)
            before = response if was_valid else None
            if was_valid and was_ready:
                ctx.set(ready, 0)
                return response
