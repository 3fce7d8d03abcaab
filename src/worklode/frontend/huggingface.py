"""Workloads from a Hugging Face `config.json`, built offline; and the two helpers that behave otherwise on fakes."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worklode.errors import CaptureError, Fault
from worklode.frontend.environment import require_transformers
from worklode.frontend.options import CaptureOptions, near
from worklode.frontend.workload import Workload

DEFAULT_BATCH = 1
"""Assumption: one sample, the smallest step; `--batch` sets another."""

DEFAULT_SEQ_LEN = 1024
"""Assumption where the configuration states no longest sequence; else the smaller of the two."""

_DECODER_HEAD = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
_HEADS = (
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    _DECODER_HEAD,
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
)
"""Which head a configuration without `architectures` gets: the first its model type has.

Encoders and encoder-decoders also have a causal head, for their use as decoders (`is_decoder`): there it comes first.
"""


@contextmanager
def as_on_a_device() -> Iterator[None]:
    """Hugging Face takes fake tensors for tracing and would then materialise a 4-D mask; for a capture it does not."""
    utilities = sys.modules.get("transformers.masking_utils")
    if utilities is None:
        yield
        return
    replaced = {
        name: replacement
        for name, replacement in (
            ("find_packed_sequence_indices", lambda *args, **kwargs: None),
            ("is_tracing", lambda *args, **kwargs: False),
        )
        if hasattr(utilities, name)
    }
    kept = {name: getattr(utilities, name) for name in replaced}
    for name, replacement in replaced.items():
        setattr(utilities, name, replacement)
    try:
        yield
    finally:
        for name, original in kept.items():
            setattr(utilities, name, original)


def from_configuration(path: Path, options: CaptureOptions) -> Workload:
    """The workload of a configuration file.

    Raises:
        CaptureError: the file is missing, is no JSON, or names a model that transformers does not have.
    """
    values = _read(path)
    require_transformers(str(path))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    configuration, model_class = _model_class(path, values)
    batch = options.batch or DEFAULT_BATCH
    seq_len = options.seq_len or min(DEFAULT_SEQ_LEN, _longest(configuration))
    if hasattr(configuration, "use_cache"):
        configuration.use_cache = False
    decodes = getattr(configuration, "is_encoder_decoder", False)
    if decodes and getattr(configuration, "decoder_start_token_id", None) is None:
        configuration.decoder_start_token_id = 0  # which token it is decides no shape

    def make() -> object:
        model = model_class._from_config(configuration)
        return model, _inputs(model, configuration, batch, seq_len)

    takes_tokens = model_class.main_input_name == "input_ids"
    return Workload(name=str(path), make=make, batch=batch, seq_len=seq_len if takes_tokens else None)


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    if not path.is_file():
        raise CaptureError(Fault(where=str(path), problem="no such file", allowed="a Hugging Face config.json"))
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        line = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise CaptureError(Fault(where=str(path), path=line, problem=f"not JSON: {error}")) from error
    if not isinstance(values, dict):
        raise CaptureError(
            Fault(
                where=str(path), value=type(values).__name__, problem="not a JSON object", allowed='{"model_type": ...}'
            )
        )
    return values


def _model_class(path: Path, values: dict[str, Any]) -> tuple[Any, Any]:
    """Configuration object and model class of a configuration file."""
    import transformers
    from transformers.models.auto import configuration_auto, modeling_auto

    known = tuple(getattr(configuration_auto, "CONFIG_MAPPING_NAMES"))  # noqa: B009 (not exported to type checkers)
    model_type = values.get("model_type")
    if model_type not in known:
        problem = "the configuration has no model_type" if model_type is None else "unknown model_type"
        value = "" if model_type is None else repr(model_type)
        allowed = near(str(model_type), known) if model_type is not None else "one that transformers has"
        raise CaptureError(
            Fault(where=str(path), path="model_type", value=value, problem=problem, allowed=_shortened(allowed))
        )
    rest = {key: value for key, value in values.items() if key != "model_type"}
    try:
        configuration = transformers.AutoConfig.for_model(str(model_type), **rest)
    except Exception as error:
        raise CaptureError(
            Fault(
                where=str(path), problem=f"transformers refuses the configuration: {' '.join(str(error).split())[:300]}"
            )
        ) from error
    architectures = values.get("architectures") or ()
    for name in architectures:
        found = getattr(transformers, str(name), None)
        if found is None:
            raise CaptureError(
                Fault(
                    where=str(path),
                    path="architectures",
                    value=repr(name),
                    problem=f"transformers {transformers.__version__} has no such model",
                    allowed="a model class of transformers",
                )
            )
        return configuration, found
    decodes_alone = getattr(configuration, "is_decoder", False) and not configuration.is_encoder_decoder
    for mapping in (_DECODER_HEAD, *_HEADS) if decodes_alone else _HEADS:
        name = getattr(modeling_auto, mapping, {}).get(model_type)
        if name:
            return configuration, getattr(transformers, name if isinstance(name, str) else name[0])
    raise CaptureError(
        Fault(
            where=str(path),
            path="architectures",
            problem="missing, and this model type has no head that trains by default",
            allowed='the model class, for example "architectures": ["BertForMaskedLM"]',
        )
    )


def _shortened(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."


def _longest(configuration: Any) -> int:
    """Longest sequence a configuration allows."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(configuration, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return DEFAULT_SEQ_LEN


def _inputs(model: Any, configuration: Any, batch: int, seq_len: int) -> dict[str, Any]:
    """Keyword arguments of forward, with labels where the model computes its own loss."""
    import torch

    def integers(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.long)

    accepted = inspect.signature(model.forward).parameters
    main = model.main_input_name
    inputs: dict[str, Any] = {}
    if main == "input_ids":
        inputs["input_ids"] = integers(batch, seq_len)
    elif main == "pixel_values":
        inputs["pixel_values"] = torch.zeros(batch, *_image_shape(configuration))
    elif main in ("input_features", "input_values"):
        inputs[main] = _audio(configuration, main, batch, seq_len)
    else:
        raise CaptureError(
            Fault(
                where=type(model).__name__,
                path=main,
                problem="no rule makes this kind of input",
                allowed="a workload file (file.py:function) that returns (module, inputs)",
            )
        )
    inputs.update({name: tensor for name, tensor in _labels(model, batch, seq_len, integers) if name in accepted})
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return inputs


def _labels(model: Any, batch: int, seq_len: int, integers: Any) -> Iterator[tuple[str, Any]]:
    """Labels by the head, which the class name tells."""
    name = type(model).__name__
    if "QuestionAnswering" in name:
        yield "start_positions", integers(batch)
        yield "end_positions", integers(batch)
    elif any(head in name for head in ("SequenceClassification", "ImageClassification", "AudioClassification")):
        yield "labels", integers(batch)
    else:
        yield "labels", integers(batch, seq_len)
        yield "next_sentence_label", integers(batch)


def _image_shape(configuration: Any) -> tuple[int, int, int]:
    """(channels, height, width) of the images of a vision configuration; 224 where it states none (ImageNet's)."""
    size = getattr(configuration, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return int(getattr(configuration, "num_channels", 3)), height, width


def _audio(configuration: Any, main: str, batch: int, seq_len: int) -> Any:
    """Samples [B, S], or mel features [B, bins, frames]; frames are twice the source positions (Whisper's stride)."""
    import torch

    if main == "input_values":
        return torch.zeros(batch, seq_len)
    bins = int(getattr(configuration, "num_mel_bins", 80))
    return torch.zeros(batch, bins, 2 * int(getattr(configuration, "max_source_positions", seq_len)))
