"""Tiny configurations of Hugging Face models, as a user's `config.json`."""

from __future__ import annotations

import atexit
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from worklode.frontend.options import CaptureOptions
from worklode.frontend.workload import find_workload

from .entry import Entry

SHORT: dict[str, Any] = {"batch": 2, "seq_len": 12}
BERT: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
LLAMA: dict[str, Any] = BERT | {"num_key_value_heads": 1}


@cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="worklode-configurations-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def configuration_file(name: str, values: dict[str, Any]) -> str:
    """Path of a `config.json` in a folder of its own."""
    path = _folder() / name / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))
    return str(path)


def of_configuration(name: str, shows: str, values: dict[str, Any], **rest: Any) -> Entry:
    """An entry whose workload is a path."""
    options = SHORT | rest.pop("options", {})

    def build() -> Any:
        return find_workload(configuration_file(name, values), CaptureOptions(**options)).make()

    return Entry(name=name, shows=shows, build=build, options=options, configuration=values, **rest)


ENTRIES = (
    of_configuration("hf-bert", "encoder, masked tokens", {"model_type": "bert", **BERT}),
    of_configuration(
        "hf-roberta",
        "encoder, classes of sequences; positions from a cumulative sum",
        {"model_type": "roberta", "architectures": ["RobertaForSequenceClassification"], **BERT},
    ),
    of_configuration(
        "hf-distilbert",
        "encoder, answers in a text",
        {
            "model_type": "distilbert",
            "architectures": ["DistilBertForQuestionAnswering"],
            "vocab_size": 60,
            "dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 32,
            "max_position_embeddings": 32,
        },
    ),
    of_configuration(
        "hf-gpt2",
        "decoder with fused weights transposed (Conv1D)",
        {"model_type": "gpt2", "vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    ),
    of_configuration(
        "hf-opt",
        "decoder with layer drop, a branch on a random number",
        {"model_type": "opt", "word_embed_proj_dim": 16, "ffn_dim": 32, "dropout": 0.1, **BERT},
        notes=("truth value of aten.lt taken as False",),
    ),
    of_configuration("hf-llama", "decoder, rotary positions, grouped queries", {"model_type": "llama", **LLAMA}),
    of_configuration("hf-mistral", "decoder, sliding window", {"model_type": "mistral", "sliding_window": 4, **LLAMA}),
    of_configuration(
        "hf-qwen2", "decoder with biases, tied embedding", {"model_type": "qwen2", "tie_word_embeddings": True, **LLAMA}
    ),
    of_configuration(
        "hf-gemma2",
        "decoder, soft-capped scores, two kinds of layers",
        {"model_type": "gemma2", "head_dim": 8, **LLAMA},
    ),
    of_configuration(
        "hf-t5",
        "encoder and decoder, relative positions",
        {
            "model_type": "t5",
            "vocab_size": 60,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
        },
    ),
    of_configuration(
        "hf-bart",
        "encoder and decoder, learned positions",
        {
            "model_type": "bart",
            "vocab_size": 60,
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": 32,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        notes=("truth value of aten.eq taken as False", "truth value of aten.lt taken as False"),
    ),
    of_configuration(
        "hf-vit",
        "images as patches",
        {"model_type": "vit", "image_size": 16, "patch_size": 4, "num_labels": 5, **BERT},
    ),
    of_configuration(
        "hf-convnext",
        "images, convolutions",
        {
            "model_type": "convnext",
            "image_size": 32,
            "num_stages": 2,
            "depths": [1, 2],
            "hidden_sizes": [8, 16],
            "patch_size": 4,
        },
    ),
    of_configuration(
        "hf-whisper",
        "speech: 1-D convolutions, encoder and decoder",
        {
            "model_type": "whisper",
            "vocab_size": 60,
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 16,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        notes=("truth value of aten.lt taken as False",),
    ),
    of_configuration(
        "hf-mamba",
        "state space, the library's own scan",
        {"model_type": "mamba", "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    ),
    of_configuration(
        "hf-mixtral",
        "experts",
        {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, **LLAMA},
    ),
)
