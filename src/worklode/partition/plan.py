"""Plans of tensor and expert parallelism: which parameters are divided over the devices, and along what.

A plan is data: rules from a module path (or a parameter's name) to a style. It comes with a model of the zoo, from a
user's YAML file or dictionary, or from a Hugging Face model's `tp_plan`. Everything else (activations, gradients,
optimizer state, collectives) follows from the captured graph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cached_property, lru_cache
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from worklode.errors import Fault, SpecError

VOCABULARY_MULTIPLE = 128
"""Rows of a device's part of a padded vocabulary are a multiple of this: Megatron-LM's default of
`--make-vocab-size-divisible-by` (megatron/training/arguments.py), so that its products stay efficient."""


class Style(StrEnum):
    """How the parameters of a module are held.

    COLWISE: output features are divided (of an embedding: its width); Megatron's column-parallel linear.
    ROWWISE: input features are divided, results are summed over the devices (of an embedding: its rows).
    VOCAB: the vocabulary is divided (rows of an embedding, columns of a head), padded where devices do not divide it.
    EXPERT: experts are divided, tokens travel to them and back (all-to-all).
    SEQUENCE, REPLICATE: every device holds all; their gradients are summed where devices saw different tokens.
    """

    COLWISE = "colwise"
    ROWWISE = "rowwise"
    VOCAB = "vocab"
    EXPERT = "expert"
    SEQUENCE = "sequence"
    REPLICATE = "replicate"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRule:
    """The style of the parameters below a path.

    Attributes:
        pattern: module path or parameter name; `*` is any one part of it. It may lack leading parts.
        style: how they are held.
        parts: equal matrices side by side in one weight, each divided on its own (3: query, key, value; 2: gate, up).
    """

    pattern: str
    style: Style
    parts: int = 1


@dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """Rules of one model, the first that fits a parameter's full name, else the first that fits its module.

    Attributes:
        name: what it is called in messages.
        rules: the rules.
        vocabulary_multiple: rows of a device are padded to a multiple of this where devices do not divide a vocabulary.
        covers_variants: it may name parameters that a model has not (a head that is tied to the embedding).
    """

    name: str
    rules: tuple[PlanRule, ...]
    covers_variants: bool = False
    vocabulary_multiple: int = VOCABULARY_MULTIPLE

    @cached_property
    def _compiled(self) -> tuple[tuple[re.Pattern[str], PlanRule], ...]:
        return tuple((_expression(rule.pattern), rule) for rule in self.rules)

    def rule_for(self, parameter: str) -> PlanRule | None:
        """The rule of a parameter, by its name, else by the path of one of its modules, the innermost first."""
        path = parameter
        while path:
            for expression, rule in self._compiled:
                if expression.fullmatch(path):
                    return rule
            path = path.rpartition(".")[0]
        return None

    @property
    def is_expert_parallel(self) -> bool:
        """Does it divide experts? Then the axis is that of experts, and nothing else may be divided along it."""
        return any(rule.style is Style.EXPERT for rule in self.rules)


@lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    parts = [r"[^.]+" if part == "*" else re.escape(part) for part in pattern.split(".")]
    return re.compile(r"(?:.*\.)?" + r"\.".join(parts))


# ---------------------------------------------------------------------------------------------- models of the zoo

_ATTENTION = {"query": "colwise", "key": "colwise", "value": "colwise", "output": "rowwise"}
_FUSED_ATTENTION = {"query_key_value": "colwise:3", "output": "rowwise"}
_FEED_FORWARD = {"up": "colwise", "down": "rowwise"}
_GATED = {"gate": "colwise", **_FEED_FORWARD}


def _layer(attention: Mapping[str, str], feed_forward: Mapping[str, str], path: str = "layers.*") -> dict[str, str]:
    """Rules of the repeated layer."""
    return {f"{path}.attention.{name}": style for name, style in attention.items()} | {
        f"{path}.feed_forward.{name}": style for name, style in feed_forward.items()
    }


_BERT = {
    **_layer(_ATTENTION, _FEED_FORWARD),
    "embedding.token": "vocab",
    "masked_token_head.decoder": "vocab",
}
_GPT = {**_layer(_FUSED_ATTENTION, _FEED_FORWARD), "token_embedding": "vocab"}  # the head is tied
_OPT = {**_layer(_ATTENTION, _FEED_FORWARD), "token_embedding": "vocab"}
_LLAMA = {**_layer(_ATTENTION, _GATED), "token_embedding": "vocab", "head": "vocab"}
_MIXTRAL = {
    **_layer(_ATTENTION, {f"experts.{name}": style for name, style in _GATED.items()}),
    "token_embedding": "vocab",
    "head": "vocab",
}
_T5 = {
    **_layer(_ATTENTION, _FEED_FORWARD),
    **{f"layers.*.cross_attention.{name}": style for name, style in _ATTENTION.items()},
    "relative_bias.bias": "colwise",
    "token_embedding": "vocab",
}
_VIT = _layer(_FUSED_ATTENTION, _FEED_FORWARD)

_BUILT_IN: dict[str, Mapping[str, str]] = {
    "bert-base": _BERT,
    "bert-large": _BERT,
    "opt-1.3b": _OPT,
    "gpt2-xl": _GPT,
    "gpt3-175b": _GPT,
    "vit-l16": _VIT,
    "t5-base": _T5,
    "llama2-7b": _LLAMA,
    "llama3-8b": _LLAMA,
    "llama3-70b": _LLAMA,
    "mixtral-8x7b": _MIXTRAL,
}
_EXPERTS: dict[str, Mapping[str, str]] = {"mixtral-8x7b": {"layers.*.feed_forward.experts": "expert"}}
_BY_SIZES = "gpt:"
"""How the name of a GPT starts that is named by its sizes (`gpt:layers=24,...`)."""
_HEAD_BY_HEAD = "attention=written-out"
"""In such a name: queries, keys and values lie head by head in the fused projection, not side by side."""


def tensor_plan_for(workload: str) -> TensorPlan:
    """The built-in plan of a transformer of the zoo.

    Raises:
        SpecError: there is none of that name.
    """
    if workload.startswith(_BY_SIZES):
        own = {"layers.*.attention.query_key_value": "colwise"} if _HEAD_BY_HEAD in workload.split(",") else {}
        return plan_from_mapping(_GPT | own, name=workload)
    return _built_in(_BUILT_IN, workload, "tensor-parallel")


def expert_plan_for(workload: str) -> TensorPlan:
    """The built-in expert-parallel plan of a mixture of experts of the zoo.

    Raises:
        SpecError: there is none of that name.
    """
    return _built_in(_EXPERTS, workload, "expert-parallel")


def _built_in(plans: Mapping[str, Mapping[str, str]], workload: str, what: str) -> TensorPlan:
    if workload not in plans:
        raise SpecError(
            Fault(
                where=workload,
                path="plan",
                problem=f"no {what} plan: nobody said which weights are divided by columns and which by rows",
                allowed=f"a plan file (paths of modules: {', '.join(Style)}), a Hugging Face tp_plan, or one of "
                f"{', '.join(plans)}",
            )
        )
    return plan_from_mapping(plans[workload], name=workload)


# ------------------------------------------------------------------------------------------- dictionaries and files


def plan_from_file(path: str | Path) -> TensorPlan:
    """A plan from a YAML file: a mapping of paths to styles (`layers.*.attention.query: colwise`).

    Raises:
        SpecError: the file cannot be read, or is no plan; with every fault found.
    """
    source = Path(path)
    try:
        found = YAML(typ="safe", pure=True).load(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(Fault(where=str(path), problem=f"cannot be read: {error.strerror or error}")) from error
    except (YAMLError, UnicodeDecodeError) as error:
        problem = f"is no YAML: {' '.join(str(error).split())[:200]}"
        raise SpecError(Fault(where=str(path), problem=problem, allowed="path: style")) from error
    return plan_from_mapping(found, name=str(path))


def plan_from_mapping(found: object, *, name: str) -> TensorPlan:
    """A plan from a mapping of paths to `style`, `style:parts` or `{style: ..., parts: ...}`.

    Raises:
        SpecError: every entry that is no rule.
    """
    if not isinstance(found, Mapping) or not found:
        problem = "is no mapping of module paths to styles" if not isinstance(found, Mapping) else "is empty"
        raise SpecError(Fault(where=name, path="plan", problem=problem, allowed="layers.*.attention.query: colwise"))
    faults: list[Fault] = []
    rules = [_rule(str(pattern), value, name, faults) for pattern, value in found.items()]
    if faults:
        raise SpecError(*faults)
    return _checked(TensorPlan(name=name, rules=tuple(rule for rule in rules if rule is not None)))


def _rule(pattern: str, value: object, where: str, faults: list[Fault]) -> PlanRule | None:
    """One rule; what is wrong with it goes to `faults`."""
    style: object = value
    parts: object = 1
    if isinstance(value, Mapping):
        style, parts = value.get("style"), value.get("parts", 1)
        unknown = [key for key in value if key not in {"style", "parts"}]
        faults.extend(
            Fault(where=where, path=f"{pattern}.{key}", problem="unknown key", allowed="style, parts")
            for key in unknown
        )
    elif isinstance(value, str) and ":" in value:
        style, _, text = value.partition(":")
        parts = int(text) if text.isdecimal() else text
    if not isinstance(parts, int) or isinstance(parts, bool) or parts < 1:
        faults.append(
            Fault(
                where=where, path=pattern, value=repr(parts), problem="parts is no whole number", allowed="1, 2, 3, ..."
            )
        )
    if style not in tuple(Style):
        near = get_close_matches(str(style), tuple(Style), n=1, cutoff=0.5)
        allowed = (f"did you mean {near[0]}? " if near else "") + ", ".join(Style)
        faults.append(Fault(where=where, path=pattern, value=repr(style), problem="unknown style", allowed=allowed))
        return None
    return PlanRule(pattern=pattern, style=Style(str(style)), parts=parts if isinstance(parts, int) else 1)


def _checked(plan: TensorPlan) -> TensorPlan:
    """The plan, unless it divides experts and other things along one axis.

    Raises:
        SpecError: it does.
    """
    others = [r for r in plan.rules if r.style not in {Style.EXPERT, Style.SEQUENCE, Style.REPLICATE}]
    if plan.is_expert_parallel and others:
        raise SpecError(
            *(
                Fault(
                    where=plan.name,
                    path=rule.pattern,
                    value=rule.style,
                    problem="experts and other weights cannot be divided over the same devices",
                    allowed="two plans, one after the other: experts first",
                )
                for rule in others
            )
        )
    return plan


# ------------------------------------------------------------------------------------------------- Hugging Face

_HUGGING_FACE: dict[str, tuple[Style, int]] = {
    "colwise": (Style.COLWISE, 1),
    "local_colwise": (Style.COLWISE, 1),
    "packed_colwise": (Style.COLWISE, 2),
    "local_packed_colwise": (Style.COLWISE, 2),
    "colwise_rep": (Style.VOCAB, 1),
    "colwise_gather_output": (Style.VOCAB, 1),
    "rowwise": (Style.ROWWISE, 1),
    "local_rowwise": (Style.ROWWISE, 1),
    "rowwise_split_input": (Style.ROWWISE, 1),
    "rowwise_rep": (Style.VOCAB, 1),
    "embedding_rowwise": (Style.VOCAB, 1),
    "packed_rowwise": (Style.ROWWISE, 2),
    "local_packed_rowwise": (Style.ROWWISE, 2),
    "sequence_parallel": (Style.SEQUENCE, 1),
    "replicated_with_grad_allreduce": (Style.REPLICATE, 1),
    "replicate": (Style.REPLICATE, 1),
    "isolated": (Style.REPLICATE, 1),
    "gather": (Style.REPLICATE, 1),
    "all_reduce": (Style.REPLICATE, 1),
    "local": (Style.REPLICATE, 1),
    "moe_tp_experts": (Style.REPLICATE, 1),
    "ep_router": (Style.REPLICATE, 1),
    "grouped_gemm": (Style.EXPERT, 1),
}
"""Styles of transformers 5 (`ALL_PARALLEL_STYLES` of its tensor parallelism) and of earlier releases. Where it gathers
logits (`colwise_gather_output`) the loss is computed on the divided logits here: the same values for less traffic.
Module styles that only place collectives (`moe_tp_experts`, `ep_router`, `all_reduce`) need no rule: collectives follow
from the graph."""


def plan_from_hugging_face(tp_plan: Mapping[str, str], *, name: str = "tp_plan") -> TensorPlan:
    """A plan from the `tp_plan` of a Hugging Face model or the `base_model_tp_plan` of its configuration.

    Embeddings and the head are whole where the plan does not name them, as transformers leaves them.

    Raises:
        SpecError: every style that is not known.
    """
    faults = [
        Fault(where=name, path=pattern, value=repr(style), problem="unknown style", allowed=", ".join(_HUGGING_FACE))
        for pattern, style in tp_plan.items()
        if style not in _HUGGING_FACE
    ]
    if faults or not tp_plan:
        raise SpecError(*faults or (Fault(where=name, path="plan", problem="is empty", allowed="path: style"),))
    rules = []
    for pattern, style in tp_plan.items():
        found, parts = _HUGGING_FACE[style]
        rules.append(PlanRule(pattern=pattern, style=found, parts=parts))
    return _checked(TensorPlan(name=name, rules=tuple(rules), covers_variants=True))
