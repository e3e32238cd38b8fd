"""``palquant explore``: the machines that are worth building for a network on a device."""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from typing import Any

from palquant import golden, hw, sim, sw
from palquant.accuracy import graph_passes
from palquant.candidates import Candidate, Space, candidates, shares
from palquant.cost_model import CostModel
from palquant.errors import ConfigurationError
from palquant.files import make_folder, write_json
from palquant.golden.models import ARCHITECTURES
from palquant.hw.config import Geometry
from palquant.hw.isa import Memory
from palquant.hw.place_and_route import DEVICES, Device
from palquant.hw.presets import PRESETS
from palquant.largest_array import largest_array
from palquant.needs import needed_contents, needed_widths
from palquant.progress import progress_bar
from palquant.search import Cycles, Found, Search, front
from palquant.sim.build import cache_folder, digest, package_sources
from palquant.sim.bus import LATENCY, Bus
from palquant.sim.predict import predict
from palquant.sw.compile import compile_graph
from palquant.sw.graph import Graph
from palquant.sw.model import load_model
from palquant.tables import count, table
from palquant.workloads import Workload, workload_graph

Report = dict[str, Any]

#: Names of the busy activities of a profile.
_BUSY = ("ARRAY", "POOL")


class Network:
    """The network that machines are chosen for, and what is known of it from earlier runs.

    Parameters:
        options: Those of the command.

    Raises:
        ConfigurationError: No architecture has that name.
    """

    def __init__(self, options: Namespace) -> None:
        self._fresh, self._quiet = options.fresh, options.quiet
        self._graph: Graph | None = None
        self._known: dict[str, Any] = {}
        if options.model is not None:
            self._graph = load_model(options.model)
            self.name = options.model.stem
            self._key = digest([options.model.read_bytes()])
            return
        if options.network not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ConfigurationError(f"no network is called {options.network!r} (known: {known})")
        self._workload = Workload(
            architecture=options.network,
            groups=options.groups,
            bits=options.bits,
            stem_bits=options.stem_bits,
            shared_stem=options.shared_stem,
            size=options.size,
            base_width=options.base_width,
        )
        self.name = f"{self._workload.network}, stem {self._workload.stem}, {options.size} pixels"
        self._key = digest([repr(self._workload).encode(), *package_sources(golden)])

    @property
    def graph(self) -> Graph:
        """Its integer graph, made when it is first needed."""
        if self._graph is None:
            self._graph = workload_graph(self._workload)
        return self._graph

    def _kept(self, what: str, make: Callable[[], Any], said: str = "") -> Any:
        """Something computed now, or earlier from the very same sources.

        Parameters:
            what: Tells it from all else of the network.
            make: Computes it; what JSON can hold.
            said: What the user is told if it takes a while.
        """
        parts = [self._key.encode(), what.encode(), *package_sources(hw, sim, sw)]
        path = cache_folder() / f"{digest(parts)}.json"
        if what in self._known:
            return self._known[what]
        if self._fresh or not path.is_file():
            if said and not self._quiet:
                print(f"{self.name}: {said}", file=sys.stderr, flush=True)
            write_json(path, make())
        self._known[what] = json.loads(path.read_text())
        return self._known[what]

    def passes(self) -> int:
        """Multiply-accumulates of 2-bit digits for one image."""
        found: int = self._kept("passes", lambda: graph_passes(self.graph)[0])
        return found

    def widths(self) -> dict[str, int]:
        """Registers that it needs."""
        found: dict[str, int] = self._kept(
            "widths",
            lambda: needed_widths(self.graph, PRESETS["kilomac"]),
            "finding how wide its registers must be",
        )
        return found

    def contents(self) -> dict[Memory, int]:
        """What it needs of the memories at least."""
        widths: dict[str, Any] = self.widths()
        probe = dataclasses.replace(PRESETS["ulx3s"], **widths)
        found = self._kept(
            "contents",
            lambda: {
                memory.name: size for memory, size in needed_contents(self.graph, probe).items()
            },
            "finding how much memory it needs, which takes a minute or two",
        )
        return {Memory[name]: size for name, size in found.items()}

    def cycles(self, geometry: Geometry) -> Cycles:
        """What an image takes on a machine.

        Raises:
            PalquantError: The compiler refuses the network.
        """

        def make() -> Report:
            image = compile_graph(self.graph, geometry, keep_all=False)
            found = predict(image, Bus(latency=LATENCY))
            busy = sum(
                layer.activity.get(name, 0) for layer in found.profile.layers for name in _BUSY
            )
            return dataclasses.asdict(
                Cycles(found.profile.cycles, busy, found.read_beats, found.write_beats)
            )

        what = repr(dataclasses.replace(geometry, name="any"))
        return Cycles(**self._kept(f"{what} {LATENCY}", make))


def explore(options: Namespace) -> Report:
    """Search, report, and draw."""
    from palquant.plots import check_plot, draw  # matplotlib takes a second to load

    if options.device not in DEVICES or DEVICES[options.device].family != "ecp5":
        known = ", ".join(name for name, item in DEVICES.items() if item.family == "ecp5")
        raise ConfigurationError(
            f"no machine can be chosen for device {options.device!r} (devices: {known})"
        )
    if options.plot is not None:
        check_plot(options.plot)
        make_folder(options.plot.parent)  # what cannot be written is refused before the work
    model = CostModel.load()
    device = DEVICES[options.device]
    network = Network(options)
    refused: Counter[str] = Counter()
    fitting = list(
        candidates(
            Space(), network.widths(), network.contents(), device, model, options.clock, refused
        )
    )
    compiler: Counter[str] = Counter()

    def cost(candidate: Candidate) -> float:
        return candidate.area.lut if options.cost == "lut" else candidate.share

    search = Search(network.passes(), network.cycles, cost, compiler)
    with progress_bar(
        total=len(fitting), unit="machine", desc="search", shown=not options.quiet, smoothing=0
    ) as bar:

        def follow(settled: int) -> None:
            bar.set_postfix_str(f"{len(search.found)} evaluated", refresh=False)
            bar.update(settled - bar.n)

        left = search.run(fitting, options.limit, follow)
    best = front(search.found)
    largest = largest_array(model, device)
    report: Report = {
        "kind": "palquant machines",
        "network": network.name,
        "device": device.name,
        "clock_mhz": options.clock,
        "memory_latency": LATENCY,
        "cost": options.cost,
        "widths": network.widths(),
        "least_contents": {memory.name: size for memory, size in network.contents().items()},
        "fitting": len(fitting),
        "too_large": dict(refused),
        "compiler_refused": compiler["compiler"],
        "evaluated": len(search.found),
        "skipped": search.skipped,
        "not_looked_at": left,
        "front": [_row(item, device) for item in best],
        "machines": [_row(item, device) for item in search.found],
        "largest_array": {
            "geometry": dataclasses.asdict(largest.geometry),
            "macs": largest.geometry.peak_macs,
            **dataclasses.asdict(largest.area),
            "fmax_mhz": largest.fmax_mhz,
            "tops": largest.tops,
        },
    }
    _print(report)
    if options.plot is not None:
        draw("explore", report, options.plot)
    return report


def _row(item: Found, device: Device) -> Report:
    candidate, g = item.candidate, item.candidate.geometry
    of = shares(candidate.area, device)
    return {
        "geometry": dataclasses.asdict(g),
        "array": f"{g.tin}x{g.tout}",
        "images_per_s": item.images_per_s,
        "cycles": item.cycles.total,
        "utilization": item.cycles.busy / item.cycles.total,
        "fmax_mhz": candidate.fmax_mhz,
        **dataclasses.asdict(candidate.area),
        "share": candidate.share,
        "fullest": max(of, key=lambda name: of[name]),
    }


def _print(report: Report) -> None:
    sizes = {
        "lanes": "lanes", "bus_bits": "bus", "weight_words": "weights",
        "activation_words": "activations", "output_words": "outputs", "residual_words": "residuals",
        "parameter_slots": "slots", "array_registers": "registers",
    }  # fmt: skip
    columns = ["images_per_s", "cycles", "fmax_mhz", "lut", "bram", "share", "fullest"]
    if not report["front"]:
        raise ConfigurationError(
            f"no machine that fits {report['device']} can run {report['network']}: "
            f"{report['compiler_refused']} were refused by the compiler"
        )
    print(
        table(
            ["array", *sizes.values(), *columns],
            [
                [row["array"], *(row["geometry"][name] for name in sizes),
                 *(row[name] for name in columns)]
                for row in report["front"]
            ],
        )
    )  # fmt: skip
    over = ", ".join(f"{number:,} in {name}" for name, number in report["too_large"].items())
    widths = ", ".join(f"{name} {bits}" for name, bits in report["widths"].items())
    print(
        f"\n{report['network']} on {report['device']}; {widths}. "
        f"{count(report['fitting'], 'machine')} fit, {report['evaluated']} were compiled and their "
        f"cycles predicted exactly, {report['compiler_refused']} the compiler refused, "
        f"{report['skipped']:,} could not have been better, {report['not_looked_at']:,} were not "
        f"looked at (--limit); too large: {over or 'none'}."
    )
    largest = report["largest_array"]
    tops = f", {largest['fmax_mhz']:.0f} MHz, {largest['tops']:.2f} TOPS of 2 bits at its peak" \
        if largest["tops"] else ""  # fmt: skip
    print(
        f"Largest array alone that fits: {largest['geometry']['name']}, {largest['macs']:,} "
        f"multipliers, {largest['lut']:,} look-up tables{tops}"
    )
