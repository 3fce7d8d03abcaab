"""The models of the zoo cut down to the sizes of one device: what a plan says, done to the modules themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from worklode.frontend import capture
from worklode.frontend.workload import Workload
from worklode.frontend.zoo import function
from worklode.frontend.zoo.moe import GatedExperts
from worklode.graph.training_graph import TrainingGraph
from worklode.partition.plan import Style, TensorPlan, tensor_plan_for


def without_vocabulary(name: str) -> TensorPlan:
    """The built-in plan, vocabulary left whole (dividing it makes other operators, not smaller ones)."""
    plan = tensor_plan_for(name)
    return replace(plan, rules=tuple(rule for rule in plan.rules if rule.style is not Style.VOCAB))


def captured_local(name: str, devices: int) -> TrainingGraph:
    """The step of a zoo model whose modules have the sizes of one of `devices` devices; no collectives."""

    def make() -> tuple[Any, ...]:
        module, *rest = function(name)()
        _cut_down(module, without_vocabulary(name), devices)
        return (module, *rest)

    return capture(Workload(name=name, make=make))


def _cut_down(model: nn.Module, plan: TensorPlan, devices: int) -> None:
    for path, module in list(model.named_modules()):
        for attribute in ("heads", "key_value_heads"):
            if isinstance(getattr(module, attribute, None), int):
                setattr(module, attribute, getattr(module, attribute) // devices)
        if isinstance(module, GatedExperts):
            experts, width, inner = module.gate.shape
            for name in ("gate", "up"):
                setattr(module, name, nn.Parameter(torch.empty(experts, width, inner // devices)))
            module.down = nn.Parameter(torch.empty(experts, inner // devices, width))
        rule = plan.rule_for(f"{path}.weight")
        if rule is None or not isinstance(module, nn.Linear | nn.Embedding):
            continue
        by_columns = rule.style is Style.COLWISE
        if isinstance(module, nn.Embedding):
            smaller: nn.Module = nn.Embedding(module.num_embeddings, module.embedding_dim // devices)
        else:
            smaller = nn.Linear(
                module.in_features // (1 if by_columns else devices),
                module.out_features // (devices if by_columns else 1),
                bias=module.bias is not None,
            )
        parent, _, own = path.rpartition(".")
        setattr(model.get_submodule(parent), own, smaller)
