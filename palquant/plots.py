"""Pictures of benchmarks, as SVG, PNG or PDF."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from palquant.errors import InputError
from palquant.files import write_bytes

Report = dict[str, Any]

#: Formats by the file name's suffix.
FORMATS = ("svg", "png", "pdf")
#: Colours that people with any colour vision can tell apart (Okabe and Ito).
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")

MARKERS = ("o", "s", "^", "D", "v", "p", "*", "h", "X", "P", "<", ">")


def layer_cycles(report: Report) -> Figure:
    """Cycles of each layer: at work, and stalled by cause."""
    layers = report["layers"]
    causes = sorted({cause for layer in layers for cause in layer["stalls"]})
    parts = {"array or pooling": [
        layer["cycles"] - sum(layer["stalls"].values()) for layer in layers
    ]}  # fmt: skip
    parts |= {cause: [layer["stalls"].get(cause, 0) for layer in layers] for cause in causes}
    figure = Figure(figsize=(9, 1 + 0.25 * len(layers)), layout="constrained")
    axes = figure.subplots()
    names = [layer["name"] for layer in layers]
    left = [0] * len(layers)
    for (label, cycles), color in zip(parts.items(), itertools.cycle(COLORS), strict=False):
        axes.barh(names, cycles, left=left, label=label, color=color)
        left = [a + b for a, b in zip(left, cycles, strict=True)]
    # One long layer, the stem, would make slivers of all others: its bar is cut, not its number.
    limit = 1.2 * sorted(left)[-2] if len(left) > 1 else 1.2 * left[0]
    for place, total in enumerate(left):
        label = f" {total:,}{' →' if total > limit else ''}"
        end, side = (limit, "right") if total > 0.9 * limit else (total, "left")
        axes.text(end, place, label, va="center", ha=side, fontsize="x-small",
                  color="white" if total > limit else "black")  # fmt: skip
    axes.set_xlim(0, limit)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("cycles")
    axes.set_title(
        f"{report['network']}, {report['size']}x{report['size']}, {report['geometry']}: "
        f"utilization {report['utilization']:.1%}, quantised layers "
        f"{report['quantized_utilization']:.1%}"
    )
    axes.legend(loc="lower right", fontsize="small")
    return figure


def speedups(report: Report) -> Figure:
    """Speed-up over the 4-bit network: quantised layers, and the whole network for each stem."""
    rows = report["rows"]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    stems = list(dict.fromkeys(row["stem"] for row in rows))
    found = {(row["network"], row["stem"]): row for row in rows}
    series = {"quantised layers": [found[name, stems[0]]["speedup_quantized"] for name in networks]}
    for stem in stems:
        cells = [found.get((name, stem)) for name in networks]
        label = f"whole network, stem {stem}"
        series[label] = [row["speedup_network"] if row else 0 for row in cells]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.margins(y=0.1)
    width = 0.8 / len(series)
    for index, ((label, values), color) in enumerate(
        zip(series.items(), itertools.cycle(COLORS), strict=False)
    ):
        places = [place + (index + 0.5) * width - 0.4 for place in range(len(networks))]
        bars = axes.bar(places, values, width, label=label, color=color)
        labels = [f"{value:.2f}" if value else "" for value in values]
        axes.bar_label(bars, labels, fontsize="xx-small", rotation=90, padding=2)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(networks)), networks)
    axes.set_ylabel(f"speed-up over {networks[0]}")
    axes.set_title(f"{report['geometry']}, {report['size']}x{report['size']}, cycles of RTL")
    axes.legend(fontsize="small")
    return figure


def growth(report: Report) -> Figure:
    """Cycles and wall time for each multiply-accumulate, over the size of the image."""
    rows = report["rows"]
    sizes = [row["size"] for row in rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, field, label, color in (
        (left, "cycles_per_kmac", "cycles for 1000 MACs", COLORS[0]),
        (right, "simulation_ns_per_mac", "nanoseconds of simulation for a MAC", COLORS[1]),
    ):
        axes.plot(sizes, [row[field] for row in rows], marker="o", color=color)
        axes.set_ylim(bottom=0)
        axes.set_xticks(sizes)
        axes.set_xlabel("height and width of the image")
        axes.set_ylabel(label)
    figure.suptitle(f"{rows[0]['network']} on {report['geometry']}")
    return figure


def accuracy(report: Report) -> Figure:
    """Top-1 accuracy over cost; filled and named is who is on the Pareto front of the means."""
    rows = [row for row in report["rows"] if row["passes"] is not None]
    families = list(dict.fromkeys((row["groups"], row["weight_bits"]) for row in rows))
    variants = list(dict.fromkeys((row["shuffle"], row["stem"]) for row in rows))
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for row in report["rows"]:
        if row["passes"] is None:
            ends = (row["top1_mean"] - row["top1_ci95"], row["top1_mean"] + row["top1_ci95"])
            axes.axhspan(*ends, color="black", alpha=0.08, linewidth=0)
            axes.axhline(row["top1_mean"], color="black", linestyle=":", label=row["method"])
    for row in rows:
        color = COLORS[families.index((row["groups"], row["weight_bits"])) % len(COLORS)]
        marker = MARKERS[variants.index((row["shuffle"], row["stem"])) % len(MARKERS)]
        axes.errorbar(
            row["passes"], row["top1_mean"], yerr=row["top1_ci95"], fmt=marker, color=color,
            markerfacecolor=color if row["pareto"] else "white", markersize=7, capsize=3,
            elinewidth=0.8, label=row["method"],
        )  # fmt: skip
    front = sorted((row for row in rows if row["pareto"]), key=lambda row: float(row["passes"]))
    places = [row["passes"] for row in front], [row["top1_mean"] for row in front]
    axes.step(*places, where="post", color="black", linewidth=0.8, zorder=0, label="Pareto front")
    for row in front:
        axes.annotate(
            row["method"], (row["passes"], row["top1_mean"]), xytext=(-5, 5), ha="right",
            textcoords="offset points", fontsize="x-small",
        )  # fmt: skip
    axes.margins(x=0.15)
    axes.set_xlabel("2-bit passes of the whole network for one image")
    axes.set_ylabel("held-out top-1")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.set_title(
        f"{report['data']}, {report['base_width']} channels in a group,\n"
        f"means of {report['rows'][0]['seeds']} seeds with intervals of 95 %"
    )
    figure.legend(loc="outside right upper", fontsize="x-small")
    return figure


def area(report: Report) -> Figure:
    """Look-up tables for each multiplier, of arrays alone and of whole accelerators."""
    builds = report["builds"]
    scopes = list(dict.fromkeys(build["scope"] for build in builds))
    figure = Figure(figsize=(9, 1.5 + 0.35 * len(builds)), layout="constrained")
    for axes, scope in zip(figure.subplots(len(scopes), squeeze=False)[:, 0], scopes, strict=True):
        rows = [build for build in builds if build["scope"] == scope]
        targets = list(dict.fromkeys(build["target"] for build in builds))
        for place, build in enumerate(rows):
            axes.barh(place, build["lut_per_mac"], color=COLORS[targets.index(build["target"])])
            clock = f", {build['fmax_mhz']:.0f} MHz" if build["fmax_mhz"] else ""
            label = f" {build['lut_per_mac']:.1f} ({build['lut']:,}{clock})"
            axes.text(build["lut_per_mac"], place, label, va="center", fontsize="x-small")
        axes.set_yticks(range(len(rows)), [f"{row['target']} {row['geometry']}" for row in rows])
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.set_xlabel("look-up tables for each 2-bit multiplier")
        axes.set_title(f"{scope} (look-up tables in all, clock after routing)")
    return figure


def cost(report: Report) -> Figure:
    """Look-up tables as predicted over look-up tables as measured, of whole accelerators."""
    rows = report["accelerators"]
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for fitted, label, color in ((True, "fitted to", COLORS[0]), (False, "never seen", COLORS[5])):
        chosen = [row for row in rows if row["fitted"] == fitted]
        places = [row["lut"] for row in chosen], [row["predicted_lut"] for row in chosen]
        axes.plot(*places, "o", label=label, color=color)
        for row in chosen:
            axes.annotate(
                row["geometry"], (row["lut"], row["predicted_lut"]), xytext=(5, -8),
                textcoords="offset points", fontsize="x-small",
            )  # fmt: skip
    most = max(max(row["lut"], row["predicted_lut"]) for row in rows) * 1.1
    axes.plot([0, most], [0, most], color="black", linewidth=0.8, label="equal")
    axes.fill_between([0, most], [0, 0.9 * most], [0, 1.1 * most], color="black", alpha=0.08,
                      linewidth=0, label="10 %")  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("look-up tables, synthesised")
    axes.set_ylabel("look-up tables, predicted")
    axes.set_title(f"whole accelerators on {report['device']}")
    axes.legend(fontsize="small")
    return figure


def machines(report: Report) -> Figure:
    """Images a second over what a machine is weighed by, and the machines that none beats."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    by_share = report["cost"] == "share"
    name, unit = ("share", "largest share of a resource") if by_share else ("lut", "look-up tables")
    arrays = list(dict.fromkeys(row["array"] for row in report["machines"]))
    for index, array in enumerate(arrays):
        rows = [row for row in report["machines"] if row["array"] == array]
        axes.plot(
            [row[name] for row in rows], [row["images_per_s"] for row in rows], linestyle="",
            marker=MARKERS[index % len(MARKERS)], color=COLORS[index % len(COLORS)], label=array,
            markerfacecolor="white",
        )  # fmt: skip
    front = report["front"]
    places = [row[name] for row in front], [row["images_per_s"] for row in front]
    axes.step(*places, where="post", color="black", linewidth=0.8, zorder=0, label="Pareto front")
    for row in front:
        axes.annotate(
            f"{row['array']} {row['images_per_s']:.1f}", (row[name], row["images_per_s"]),
            xytext=(-5, 5), ha="right", textcoords="offset points", fontsize="x-small",
        )  # fmt: skip
    axes.set_xlabel(f"{unit}, {report['device']}")
    axes.set_ylabel("images a second")
    if by_share:
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    else:
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylim(bottom=0)
    axes.margins(x=0.1)
    axes.grid(alpha=0.3)
    axes.set_title(report["network"])
    axes.legend(fontsize="small", loc="upper left")
    return figure


#: Benchmark, or command -> the picture of its report.
PLOTS: dict[str, Callable[[Report], Figure]] = {
    "resnet18": layer_cycles,
    "speedup": speedups,
    "growth": growth,
    "accuracy": accuracy,
    "area": area,
    "cost": cost,
    "explore": machines,
}


def check_plot(path: Path) -> None:
    """Refuse a file name that says no format, before anything is measured.

    Raises:
        InputError: The suffix is none of ``FORMATS``.
    """
    if path.suffix[1:] not in FORMATS:
        raise InputError(f"{path}: cannot draw this format (supported: {', '.join(FORMATS)})")


def draw(name: str, report: Report, path: Path) -> None:
    """Draw the report of a benchmark or command to a file; the suffix says the format.

    The same report gives the same bytes.

    Raises:
        OutputError: The file cannot be written.
    """
    stream = io.BytesIO()
    kind = path.suffix[1:]
    # Without a fixed salt, SVG names its elements at random; without a date, at no time.
    with rc_context({"svg.hashsalt": "palquant", "font.size": 9}):
        metadata = {"Date": None} if kind == "svg" else None
        PLOTS[name](report).savefig(stream, format=kind, metadata=metadata)
    write_bytes(path, stream.getbuffer())
