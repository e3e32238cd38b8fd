"""A behavioural AXI4 memory for Amaranth's simulator, which also checks the protocol.

It stalls at random on every channel, answers late, answers identifiers out of order, answers with
errors, or stops answering. A write is visible only when its response is given.
"""

import random
from collections import Counter, defaultdict, deque

CHANNELS = {
    "ar": ("arid", "araddr", "arlen", "arsize", "arburst", "arcache", "arprot"),
    "aw": ("awid", "awaddr", "awlen", "awsize", "awburst", "awcache", "awprot"),
    "w": ("wdata", "wstrb", "wlast"),
}
OKAY, SLVERR = 0b00, 0b10


class AxiMemory:
    """Answers a master.

    Parameters:
        bus_bits: Data width.
        read: Interface with the read channels' signals, or None.
        write: Interface with the write channels' signals, or None.
        base: Byte address of the first byte.
        size: Bytes.
        latency: Cycles from an address, or a last write beat, to the answer.
        stall: Probability that a channel is not served in a cycle.
        interleave: Mix beats of different identifiers.
        seed: Of all that is random, the initial content too.

    Attributes:
        data: The content.
        read_errors, write_errors: Byte addresses of beats that are answered with SLVERR.
        wrong_last: Byte addresses of beats whose RLAST is inverted.
        wrong_identifiers: Byte addresses of bursts that are acknowledged with another identifier.
        unasked_reads: Identifiers of beats to send that nobody asked for, with RLAST.
        unasked_responses: Acknowledgements to send of bursts that never were.
        deaf: Channels that are not served at all.
        reads, writes: Bursts seen, (identifier, address, beats).
        beats: Handshakes by channel.
    """

    def __init__(
        self,
        bus_bits,
        *,
        read=None,
        write=None,
        base=0,
        size=1 << 14,
        latency=0,
        stall=0.0,
        interleave=False,
        seed=0,
    ):
        self.random = random.Random(seed)
        self.bus_bytes = bus_bits // 8
        self.base, self.size = base, size
        self.latency, self.stall, self.interleave = latency, stall, interleave
        self.data = bytearray(self.random.randbytes(size))
        self.read_errors, self.write_errors, self.deaf = set(), set(), set()
        self.wrong_last, self.wrong_identifiers = set(), set()
        self.unasked_reads, self.unasked_responses = deque(), 0
        self.reads, self.writes, self.beats = [], [], Counter()
        self._signals = {}
        for interface, prefixes in ((read, ("ar", "r")), (write, ("aw", "w", "b"))):
            if interface is not None:
                for prefix in prefixes:
                    for name in (*CHANNELS.get(prefix, ()), prefix + "valid", prefix + "ready"):
                        self._signals[name] = getattr(interface, name)
        self._read, self._write = read, write
        self._cycle = 0
        self._before = {}
        self._to_read = defaultdict(deque)  # identifier: [address, beats left, due cycle]
        self._reading = None
        self._in_burst = None
        self._addresses, self._beats, self._responses = deque(), deque(), deque()
        self._responding = self._unasked = False

    @property
    def quiet(self):
        """Nothing is owed to the master or by it."""
        return not (
            any(self._to_read.values()) or self._addresses or self._beats or self._responses
        )

    def load(self, address, content):
        """Write ``content`` by the back door."""
        self.data[address - self.base : address - self.base + len(content)] = content

    def dump(self, address, count):
        """Read ``count`` bytes by the back door."""
        return bytes(self.data[address - self.base : address - self.base + count])

    async def run(self, ctx):
        """The testbench process; never ends."""
        while True:
            _, _, *values = await ctx.tick().sample(*self._signals.values())
            now = dict(zip(self._signals, values, strict=True))
            self._cycle += 1
            self._check_stability(now)
            if self._read is not None:
                self._serve_reads(ctx, now)
            if self._write is not None:
                self._serve_writes(ctx, now)

    def _handshake(self, now, channel):
        done = bool(now[channel + "valid"] and now[channel + "ready"])
        self.beats[channel] += done
        return done

    def _serves(self, channel):
        return channel not in self.deaf and self.random.random() >= self.stall

    def _check_stability(self, now):
        for channel, names in CHANNELS.items():
            if self._before.get(channel + "valid") and not self._before[channel + "ready"]:
                for name in (*names, channel + "valid"):
                    assert now[name] == self._before[name], f"{name} changed before {channel}ready"
        self._before = now

    def _check_burst(self, now, channel):
        address, beats = now[channel + "addr"], now[channel + "len"] + 1
        assert now[channel + "burst"] == 0b01
        assert 1 << now[channel + "size"] == self.bus_bytes
        assert address % self.bus_bytes == 0
        last = address + beats * self.bus_bytes - 1
        assert address >> 12 == last >> 12, f"burst at {address:#x} crosses a 4 KiB border"
        assert self.base <= address <= last < self.base + self.size, f"no memory at {address:#x}"
        return now[channel + "id"], address, beats

    def _serve_reads(self, ctx, now):
        bus = self._read
        if self._handshake(now, "ar"):
            burst = self._check_burst(now, "ar")
            self.reads.append(burst)
            self._to_read[burst[0]].append([burst[1], burst[2], self._cycle + self.latency])
        ctx.set(bus.arready, self._serves("ar"))

        taken = self._handshake(now, "r")
        if taken and self._unasked:
            self.unasked_reads.popleft()
            self._unasked = False
        elif taken:
            bursts = self._to_read[self._reading]
            bursts[0][0] += self.bus_bytes
            bursts[0][1] -= 1
            self._in_burst = self._reading if bursts[0][1] else None
            if not bursts[0][1]:
                bursts.popleft()
            self._reading = None
        ready = [i for i, b in self._to_read.items() if b and b[0][2] <= self._cycle]
        if self._in_burst is not None and not self.interleave:
            ready = [self._in_burst]
        if self._reading is None and self.unasked_reads:
            self._unasked = True
            ctx.set(bus.rid, self.unasked_reads[0])
            ctx.set(bus.rresp, OKAY)
            ctx.set(bus.rlast, 1)
        elif self._reading is None and ready and self._serves("r"):
            self._reading = self.random.choice(ready)
            address, left, _ = self._to_read[self._reading][0]
            ctx.set(bus.rid, self._reading)
            ctx.set(bus.rdata, int.from_bytes(self.dump(address, self.bus_bytes), "little"))
            ctx.set(bus.rresp, SLVERR if address in self.read_errors else OKAY)
            ctx.set(bus.rlast, (left == 1) != (address in self.wrong_last))
        ctx.set(bus.rvalid, self._unasked or self._reading is not None)

    def _serve_writes(self, ctx, now):
        bus = self._write
        if self._handshake(now, "aw"):
            burst = self._check_burst(now, "aw")
            self.writes.append(burst)
            self._addresses.append(burst)
        if self._handshake(now, "w"):
            self._beats.append((now["wdata"], now["wstrb"], now["wlast"]))
        ctx.set(bus.awready, self._serves("aw"))
        ctx.set(bus.wready, self._serves("w"))

        while self._addresses and len(self._beats) >= self._addresses[0][2]:
            identifier, address, count = self._addresses.popleft()
            beats = [self._beats.popleft() for _ in range(count)]
            assert [beat[2] for beat in beats] == [0] * (count - 1) + [1], "wlast at a wrong beat"
            self._responses.append((identifier, address, beats, self._cycle + self.latency))

        if self._handshake(now, "b"):
            if self._responding:
                self._responses.popleft()
            else:
                self.unasked_responses -= 1
            self._responding = False
        due = self._responses and self._responses[0][3] <= self._cycle
        if not self._responding and due and self._serves("b"):
            self._responding = True
            identifier, address, beats, _ = self._responses[0]
            touched = {address + i * self.bus_bytes for i in range(len(beats))}
            failed = touched & self.write_errors
            if not failed:
                self._commit(address, beats)
            ctx.set(bus.bid, identifier ^ (address in self.wrong_identifiers))
            ctx.set(bus.bresp, SLVERR if failed else OKAY)
        elif not self._responding and self.unasked_responses:
            ctx.set(bus.bid, 0)
            ctx.set(bus.bresp, OKAY)
        ctx.set(bus.bvalid, self._responding or self.unasked_responses > 0)

    def _commit(self, address, beats):
        for data, strobe, _ in beats:
            for byte in range(self.bus_bytes):
                if strobe >> byte & 1:
                    self.data[address - self.base + byte] = data >> (8 * byte) & 0xFF
            address += self.bus_bytes
