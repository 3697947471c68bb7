"""What bulk prediction costs on many machines: a model from rates measured on one. Prints its table when run.

``python benchmarks/bulk_cost.py --help``
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from distilpose.bulk.options import SHARD_SIZE
from distilpose.errors import ConfigError

NODES = (1, 10, 100, 1000)


class BulkRates(NamedTuple):
    """Measured on one machine, by ``bulk_throughput``.

    Attributes:
        per_core: images a second and core, through the engine.
        listed: images a second that the driver lists and takes the fingerprint of before anything starts.
        shards: handed out, heard of, and read again at the end, for a second of the driver's processor time.
        images: what ``per_core`` was measured on.
    """

    per_core: float
    listed: float
    shards: float
    images: str


@dataclass(frozen=True)
class ClusterAssumptions:
    """What was not measured.

    Attributes:
        price: of a core for an hour, in dollars.
        cores: of a node.
        image_bytes: of an image as it is stored.
        node_gbit: per second, of a node's network.
        store_gbit: per second, that the storage of the images gives to all nodes together.
        store_requests: reads of an image a second, that the storage answers.
        shard_size: images of a shard.
    """

    price: float = 0.05
    cores: int = 16
    image_bytes: float = 150_000
    node_gbit: float = 10
    store_gbit: float = 100
    store_requests: float = 5_500
    shard_size: int = SHARD_SIZE


class Forecast(NamedTuple):
    """A cluster of some size.

    Attributes:
        nodes: how many.
        per_second: images, once all are at work.
        per_dollar: images, the hours that nodes wait for the list included.
        limits: images a second that each part alone would allow.
    """

    nodes: int
    per_second: float
    per_dollar: float
    limits: dict[str, float]

    @property
    def saturated(self) -> str:
        """The part that sets the pace."""
        return min(self.limits, key=lambda name: self.limits[name])


def forecast(rates: BulkRates, assumed: ClusterAssumptions, nodes: int) -> Forecast:
    """The pace of the slowest part; every other is taken to scale without loss.

    Args:
        rates: measured.
        assumed: not measured.
        nodes: >= 1.

    Raises:
        ConfigError: a number is not greater than 0.
    """
    measured = (rates.per_core, rates.listed, rates.shards)
    if not all(number > 0 for number in (*measured, *vars(assumed).values(), nodes)):
        raise ConfigError(f"expected numbers greater than 0, got {rates}, {assumed} and {nodes} nodes")
    bits = 8 * assumed.image_bytes
    limits = {
        "cores": nodes * assumed.cores * rates.per_core,
        "network of the nodes": nodes * assumed.node_gbit * 1e9 / bits,
        "bandwidth of the storage": assumed.store_gbit * 1e9 / bits,
        "requests to the storage": assumed.store_requests,
        "driver": rates.shards * assumed.shard_size,
    }
    pace = min(limits.values())
    hours_of_an_image = (1 / pace + 1 / rates.listed) / 3600
    return Forecast(nodes, pace, 1 / (hours_of_an_image * nodes * assumed.cores * assumed.price), limits)


def cost_table(rates: BulkRates, assumed: ClusterAssumptions, nodes: Sequence[int] = NODES) -> Table:
    """Forecasts of clusters of several sizes, a column each."""
    found = [forecast(rates, assumed, count) for count in nodes]
    table = Table(
        title=f"a model, not a measurement: {rates.per_core:.1f} images/s a core, {rates.listed:,.0f} listed/s, "
        f"{rates.shards:.0f} shards/s were measured, on {rates.images}",
        caption=f"assumed: {assumed.price:g} $ a core-hour, {assumed.cores} cores and {assumed.node_gbit:g} Gbit/s a "
        f"node, {assumed.image_bytes / 1000:g} kB an image, storage of {assumed.store_gbit:g} Gbit/s and "
        f"{assumed.store_requests:,.0f} requests/s, {assumed.shard_size} images a shard",
    )
    table.add_column("nodes")
    for row in found:
        table.add_column(f"{row.nodes}", justify="right", no_wrap=True)
    for part in found[0].limits:
        table.add_row(f"images/s, {part} alone", *(f"{row.limits[part]:,.0f}" for row in found))
    table.add_section()
    table.add_row("images/s", *(f"{row.per_second:,.0f}" for row in found))
    table.add_row("images for a dollar", *(f"{row.per_dollar:,.0f}" for row in found))
    table.add_row(
        "saturated", *(row.saturated.replace(" of the ", "\nof the ").replace(" to the ", "\nto the ") for row in found)
    )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table for rates and assumptions given as options."""
    default = ClusterAssumptions()
    parser = argparse.ArgumentParser(prog="python benchmarks/bulk_cost.py", description=cost_table.__doc__)
    parser.add_argument("--per-core", type=float, required=True, help="images a second and core, measured")
    parser.add_argument("--listed", type=float, required=True, help="images listed a second, measured")
    parser.add_argument("--shards", type=float, required=True, help="shards a second through the driver, measured")
    parser.add_argument("--images", default="images that were not told", help="what --per-core was measured on")
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES, help="sizes of the cluster")
    for name, value in vars(default).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default: {value:g}")
    args = vars(parser.parse_args(argv))
    assumed = ClusterAssumptions(**{name: args[name] for name in vars(default)})
    rates = BulkRates(args["per_core"], args["listed"], args["shards"], args["images"])
    Console().print(cost_table(rates, assumed, args["nodes"]))


if __name__ == "__main__":
    main()
