"""Accuracy over cost: PalQuant against its counterparts, trained on noisy handwritten digits.

All methods have the same recipe, seeds and held-out images. The networks are narrow and the images
noisy, since without either all of them would be right nearly always.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student_t

from palquant.errors import ConfigurationError
from palquant.golden.config import TrainConfig
from palquant.golden.data import synthetic_images
from palquant.golden.random_network import calibrated_graph
from palquant.hw import isa
from palquant.sw.graph import Convolution, Graph
from palquant.tables import count, table
from palquant.trainings import Training, measure

Report = dict[str, Any]

#: Options of the command line, and their defaults.
OPTIONS = {
    "base_width": 4,
    "epochs": 50,
    "seeds": 6,
    "jobs": len(os.sched_getaffinity(0)),
    "method": None,
}
#: Standard deviation of the noise on images, whose pixels are 0 to 1.
NOISE = 0.2
#: Shuffles: none, that of channels in blocks that change the shape, or the cyclic one as well.
NONE, CHANNEL, BOTH = "none", "channel", "cyclic+channel"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Method:
    """One way to make a network.

    Parameters:
        groups: Parallel groups G.
        bits: Width of weights and activations between stem and classifier; None is floating point
            everywhere.
        shuffle: What lets groups see each other.
        stem_bits: Width of the stem's weights; its activations have 8 bits.
        shared_stem: Whether all groups read one stem.
    """

    groups: int = 1
    bits: int | None = 2
    shuffle: str = NONE
    stem_bits: int = 8
    shared_stem: bool = False

    @property
    def stem(self) -> str:
        """Width of the stem's activations and weights, such as ``8x8`` or ``8x2 shared``."""
        if self.bits is None:
            return "float"
        return f"8x{self.stem_bits}{' shared' if self.shared_stem else ''}"

    @property
    def name(self) -> str:
        """Name of its own, such as ``PalQuant G=2``; what is as published is not said."""
        if self.bits is None:
            return "float"
        name = f"PalQuant G={self.groups}" if self.groups > 1 else f"W{self.bits}A{self.bits}"
        if self.groups > 1 and self.shuffle != BOTH:
            name += ", no shuffle" if self.shuffle == NONE else ", channel shuffle alone"
        return name + ("" if self.stem == "8x8" else f", stem {self.stem}")

    def config(self, options: Namespace, seed: int) -> TrainConfig:
        """Its training, with the recipe that all methods have."""
        bits = self.bits or COUNTERPART.bits
        assert bits is not None
        return TrainConfig(
            base_width=options.base_width,
            groups=self.groups,
            weight_bits=bits,
            activation_bits=bits,
            shuffle=self.shuffle == BOTH,
            channel_shuffle=self.shuffle != NONE,
            stem_bits=self.stem_bits,
            shared_stem=self.shared_stem,
            epochs=options.epochs,
            noise=NOISE,
            seed=seed,
        )


COUNTERPART = Method(bits=4)
FLOAT = Method(bits=None)
PALQUANT = tuple(Method(groups=groups, shuffle=BOTH) for groups in (2, 3, 4))
#: Everything that is trained.
METHODS = (
    FLOAT,
    *(Method(bits=bits) for bits in (4, 3, 2)),
    *(dataclasses.replace(method, shuffle=shuffle)
      for method, shuffle in itertools.product(PALQUANT, (BOTH, CHANNEL, NONE))),
    *(dataclasses.replace(method, shared_stem=True) for method in PALQUANT),
    *(dataclasses.replace(method, stem_bits=bits)
      for bits in (4, 2)
      for method in (COUNTERPART, PALQUANT[0], dataclasses.replace(PALQUANT[0], shared_stem=True))),
)  # fmt: skip


def accuracy(options: Namespace) -> Report:
    """Top-1 accuracy of every method over its cost, with differences that are paired by seed."""
    if options.seeds < 2:
        raise ConfigurationError("an interval of confidence needs at least 2 seeds")
    methods = _chosen(options.method)
    seeds = range(options.seed, options.seed + options.seeds)
    trainings = {
        (method, seed): Training(method.config(options, seed), method == FLOAT)
        for seed, method in itertools.product(seeds, methods)
    }
    found = measure(
        list(trainings.values()), jobs=options.jobs, fresh=options.fresh,
        progress=not options.quiet,
    )  # fmt: skip
    top1 = {method: [found[trainings[method, seed]] for seed in seeds] for method in methods}
    rows = [_row(method, top1[method], options) for method in methods]
    for row in rows:
        row["pareto"] = is_pareto(row, rows)
    paired = []
    for a, b in comparisons(methods):
        differences = [x - y for x, y in zip(top1[a], top1[b], strict=True)]
        mean, interval = mean_and_interval(differences)
        paired.append(
            {"a": a.name, "b": b.name, "difference_mean": mean, "difference_ci95": interval}
        )
    report: Report = {
        "data": f"scikit-learn digits with noise of standard deviation {NOISE}",
        "base_width": options.base_width,
        "epochs": options.epochs,
        "first_seed": options.seed,
        "rows": rows,
        "paired": paired,
    }
    _print(report)
    return report


def _row(method: Method, top1: Sequence[float], options: Namespace) -> Report:
    mean, interval = mean_and_interval(top1)
    passes, quantized = None, None
    if method != FLOAT:
        config = method.config(options, options.seed).network
        # Costs depend on the structure alone, not on what the weights have learned.
        graph = calibrated_graph(config, 0, synthetic_images(2, config.image))
        passes, quantized = graph_passes(graph)
    return {
        "method": method.name,
        "groups": method.groups,
        "weight_bits": method.bits or 32,
        "activation_bits": method.bits or 32,
        "shuffle": method.shuffle,
        "stem": method.stem,
        "passes": passes,
        "quantized_passes": quantized,
        "top1_mean": mean,
        "top1_ci95": interval,
        "seeds": len(top1),
        "top1": list(top1),
    }


def graph_passes(graph: Graph) -> tuple[int, int]:
    """Multiply-accumulates of 2-bit digits for one image: of all layers, of the quantised ones.

    An 8-bit layer with 4-bit weights costs four times two of them for each of its own.
    """
    total = quantized = 0
    for node in graph:
        if isinstance(node, Convolution):
            shape = graph.shapes[node.name]
            activation_bits = graph.types[node.inputs[0]].bits
            digits = isa.digits(node.weight_bits) * isa.digits(activation_bits)
            passes = int(node.weight.size) * shape.height * shape.width * digits
            total += passes
            quantized += passes if node.quantized else 0
    return total, quantized


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its interval of confidence by Student's t-distribution.

    Parameters:
        values: At least two, one for each seed.
    """
    number = len(values)
    quantile = float(student_t.ppf((1 + CONFIDENCE) / 2, number - 1))
    return statistics.fmean(values), quantile * statistics.stdev(values) / number**0.5


def is_pareto(row: Report, rows: Sequence[Report]) -> bool:
    """Whether no other row is at least as good in mean and cost, and better in one of them."""
    if row["passes"] is None:
        return False
    return not any(
        other["passes"] <= row["passes"]
        and other["top1_mean"] >= row["top1_mean"]
        and (other["passes"], other["top1_mean"]) != (row["passes"], row["top1_mean"])
        for other in rows
        if other["passes"] is not None
    )


def _chosen(names: Sequence[str] | None) -> Sequence[Method]:
    """Methods by name; all of them if none is named."""
    for name in names or ():
        if name not in {method.name for method in METHODS}:
            known = "; ".join(method.name for method in METHODS)
            raise ConfigurationError(f"there is no method {name!r} (known: {known})")
    return [method for method in METHODS if not names or method.name in names]


def comparisons(methods: Sequence[Method]) -> list[tuple[Method, Method]]:
    """What is set against each other.

    Each method against four bits with the same bits in the stem, shuffles against fewer, shared
    stems against own ones, narrower stems against that of 8 bits, and stems that are both shared
    and narrower against the published one.
    """
    pairs = []
    for method in methods:
        others = [dataclasses.replace(COUNTERPART, stem_bits=method.stem_bits)]
        if method.shuffle == BOTH:
            others += [dataclasses.replace(method, shuffle=shuffle) for shuffle in (NONE, CHANNEL)]
        elif method.shuffle == CHANNEL:
            others.append(dataclasses.replace(method, shuffle=NONE))
        if method.shared_stem:
            others.append(dataclasses.replace(method, shared_stem=False))
        if method.stem_bits != 8:
            others.append(dataclasses.replace(method, stem_bits=8))
        if method.shared_stem and method.stem_bits != 8:
            others.append(dataclasses.replace(method, shared_stem=False, stem_bits=8))
        pairs += [(method, other) for other in others if other in methods and other != method]
    return pairs


def _print(report: Report) -> None:
    columns = [
        "method", "shuffle", "stem", "passes", "quantized_passes", "top1_mean", "top1_ci95",
        "seeds", "pareto",
    ]  # fmt: skip
    rows = [[row[name] for name in columns[:-1]] + ["*" if row["pareto"] else ""]
            for row in report["rows"]]  # fmt: skip
    print(table(columns, rows))
    columns = ["a", "b", "difference_mean", "difference_ci95"]
    rows = [
        [item[name] for name in columns]
        + ["*" if abs(item["difference_mean"]) > item["difference_ci95"] else ""]
        for item in report["paired"]
    ]
    print("\n" + table([*columns, "not 0"], rows))
    print(
        f"\n{report['data']}; {report['base_width']} channels in the first stage of each group, "
        f"{count(report['epochs'], 'epoch')}. Rates are shares of 1; ci95 is half the width of an "
        "interval of 95 % confidence over the seeds, not corrected for the number of comparisons. "
        "Passes are multiply-accumulates of 2-bit digits for one image; no row marked pareto is "
        "beaten by a cheaper one that is at least as accurate."
    )
