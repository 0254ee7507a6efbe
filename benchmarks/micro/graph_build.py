"""How long the largest graph and its cost table take, against a limit of 50 ms.

`python -m benchmarks.micro.graph_build`. The largest is the network of the catalogue with the most nodes.
"""

from __future__ import annotations

import statistics
import time

from mspipeline.benchmarks.micro.result import Result, main
from mspipeline.models.catalogue import MODELS, build
from mspipeline.network.cost import cost

REPEATS = 30
LIMIT_S = 0.05


def measure() -> list[Result]:
    """Median of building the graph and counting it, each time anew."""
    name = max(MODELS, key=lambda each: len(build(each, MODELS[each].example_shape, {}).nodes))
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        costs = cost(build(name, MODELS[name].example_shape, {}))
        times.append(time.perf_counter() - began)
    took = statistics.median(times)
    detail = f"{name}, {len(costs.nodes)} nodes: {1e3 * took:.1f} ms"
    return [Result("graph and cost table", f"{1e3 * LIMIT_S:.0f} ms", LIMIT_S / took, 1, detail)]


if __name__ == "__main__":
    main(measure, __doc__)
