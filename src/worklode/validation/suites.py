"""The suites by name, and running them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from worklode.errors import Fault, SpecError
from worklode.validation import collectives, gpu, layers, memory, silicon, systolic, training
from worklode.validation.score import SuiteResult
from worklode.validation.tables import data_folder

# Suites that compare with tables, and those that need none.
WITH_TABLES: Mapping[str, Callable[[Path], SuiteResult]] = {
    "systolic": systolic.systolic,
    "gemm": gpu.gemm,
    "vector": gpu.vector,
    "attention": gpu.attention,
    "layer": layers.layer,
    "collectives": collectives.collectives,
    "memory": memory.memory,
    "training": training.training,
    "energy": silicon.energy,
    "sram": silicon.sram,
}
WITHOUT_TABLES: Mapping[str, Callable[[], SuiteResult]] = {"silicon": silicon.silicon}
SUITES = (
    "systolic",
    "gemm",
    "vector",
    "attention",
    "layer",
    "collectives",
    "memory",
    "training",
    "silicon",
    "energy",
    "sram",
)


def validate(suites: Sequence[str] = (), data: Path | None = None) -> tuple[SuiteResult, ...]:
    """Run suites, all of them where none is named.

    Args:
        suites: names.
        data: folder of the reference tables; WORKLODE_DATA or `../shared/data` where None.

    Raises:
        SpecError: an unknown suite, no folder of tables, an absent table or column: every one at once.
    """
    chosen = [name for name in SUITES if name in suites or not suites]
    faults = [
        Fault(where="validate", value=name, problem="no such suite", allowed=", ".join(SUITES))
        for name in suites
        if name not in SUITES
    ]
    if faults:
        raise SpecError(*faults)
    folder = data_folder(data) if any(name in WITH_TABLES for name in chosen) else None
    results = []
    for name in chosen:
        try:
            if name in WITHOUT_TABLES:
                results.append(WITHOUT_TABLES[name]())
            else:
                assert folder is not None
                results.append(WITH_TABLES[name](folder))
        except SpecError as error:
            faults.extend(error.faults)
    if faults:
        raise SpecError(*faults)
    return tuple(results)
