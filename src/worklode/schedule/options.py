"""Derived facts of allocation options: standalone durations, fastest and cheapest option of every work item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worklode.errors import InternalError
from worklode.schedule.compiled import Floats, Ints, compiled
from worklode.schedule.problem import ScheduleProblem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OptionTable:
    """Options of a problem as the scheduler and the bounds use them; U items, O options.

    Attributes:
        duration_s: [O] standalone duration [s]; infinite for an option that needs more cores than there are.
        fastest: [U] option of least duration; among equals the first, which has the fewest cores.
        tensor_core_s, vector_core_s: [U] least core-seconds held by any option, a bound on the work of the item.
        hbm_bytes: [U] least HBM traffic of any option [bytes].
    """

    duration_s: Floats
    fastest: Ints
    tensor_core_s: Floats
    vector_core_s: Floats
    hbm_bytes: Floats


def option_table(problem: ScheduleProblem) -> OptionTable:
    """Derive the table of a problem.

    Raises:
        InternalError: no option of some item fits the cores of the problem.
    """
    duration, fastest, tensor, vector, traffic = tabulate_options(
        problem.option_start,
        problem.tensor_cores,
        problem.vector_cores,
        problem.compute_s,
        problem.hbm_bytes,
        problem.num_tensor_cores,
        problem.num_vector_cores,
        problem.hbm_bytes_per_s,
    )
    if len(fastest) and int(fastest.min()) < 0:
        raise InternalError(
            f"no option of work item {int(fastest.argmin())} fits {problem.num_tensor_cores} tensor cores and "
            f"{problem.num_vector_cores} vector cores"
        )
    return OptionTable(
        duration_s=duration, fastest=fastest, tensor_core_s=tensor, vector_core_s=vector, hbm_bytes=traffic
    )


@compiled
def tabulate_options(
    option_start: Ints,
    tensor_cores: Ints,
    vector_cores: Ints,
    compute_s: Floats,
    hbm_bytes: Floats,
    num_tensor_cores: int,
    num_vector_cores: int,
    hbm_bytes_per_s: float,
) -> tuple[Floats, Ints, Floats, Floats, Floats]:
    """Durations [O], then fastest option and least core-seconds and bytes [U]; fastest is -1 where nothing fits."""
    num_items = len(option_start) - 1
    duration = np.full(len(compute_s), np.inf)
    fastest = np.full(num_items, -1, np.int64)
    tensor = np.full(num_items, np.inf)
    vector = np.full(num_items, np.inf)
    traffic = np.full(num_items, np.inf)
    for item in range(num_items):
        for option in range(option_start[item], option_start[item + 1]):
            if tensor_cores[option] > num_tensor_cores or vector_cores[option] > num_vector_cores:
                continue
            d = max(compute_s[option], hbm_bytes[option] / hbm_bytes_per_s)
            duration[option] = d
            if fastest[item] < 0 or d < duration[fastest[item]]:
                fastest[item] = option
            tensor[item] = min(tensor[item], tensor_cores[option] * d)
            vector[item] = min(vector[item], vector_cores[option] * d)
            traffic[item] = min(traffic[item], hbm_bytes[option])
    return duration, fastest, tensor, vector, traffic
