"""A sweep in a notebook: mine a design, then see what it loses with less bandwidth.

Opens as a notebook in VS Code and, with jupytext, in Jupyter; runs as a script: .venv/bin/python examples/notebook.py
"""
# ruff: noqa: T201

# %% One capture serves everything that follows; the second time it comes from the cache.
from dataclasses import replace

import pandas as pd

import worklode

graph = worklode.capture("bert-base", batch=4, seq_len=128)

# %% Mine within the silicon of a TPUv2. The frame has every design that was scheduled, best first.
result = worklode.mine(graph, budget="tpuv2", top_k=3)
designs = result.to_frame()
print(designs[["num_tensor_cores", "tensor_core_rows", "area_mm2", "tdp_w", "iteration_time_s"]].head())
print(f"{result.improvement:.2f} times the throughput of a TPUv2")

# %% What does the best design lose with less bandwidth? An evaluator does once what the designs share.
evaluator = worklode.evaluator(graph)
best = result.best.accelerator
rows = []
for share in (1.0, 0.75, 0.5, 0.25):
    found = evaluator.evaluate(replace(best, hbm_stack_bytes_per_s=share * best.hbm_stack_bytes_per_s))
    rows.append(
        {
            "hbm_gb_per_s": found.accelerator.hbm_bytes_per_s / 1e9,
            "iteration_time_ms": 1e3 * found.iteration_time_s,
            "tdp_w": found.silicon.tdp_w,
            **{f"bound_by_{resource}": part for resource, part in found.bound_by},
        }
    )
sweep = pd.DataFrame(rows)
print(sweep.round(3).to_string())

# %% With matplotlib installed:
# sweep.plot(x="hbm_gb_per_s", y="iteration_time_ms", marker="o")
