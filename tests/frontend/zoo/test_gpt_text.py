"""A GPT of given sizes as the text of a workload."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from worklode.errors import SpecError
from worklode.frontend import CaptureOptions, capture
from worklode.frontend.zoo.gpt import Gpt, GptConfig
from worklode.frontend.zoo.gpt_text import GptText, parse_gpt
from worklode.graph.operator import OperatorKind, Phase


def test_all_keys() -> None:
    text = "gpt:layers=3,hidden=64,heads=4,ffn=128,vocab=1000,context=256,attention=written-out,dropout=0.2"
    assert parse_gpt(text) == GptText(
        layers=3, hidden=64, heads=4, ffn=128, vocab=1000, context=256, attention="written-out", dropout=0.2
    )


def test_every_fault_is_reported() -> None:
    with pytest.raises(SpecError) as caught:
        parse_gpt("gpt:layers=0,layer=3,hidden=64,hidden=65,attention=flush,dropout=1,vocab")
    assert [(fault.path, fault.problem) for fault in caught.value.faults] == [
        ("layers", "is no positive whole number"),
        ("layer", "unknown key"),
        ("hidden", "given twice"),
        ("attention", "unknown form of attention"),
        ("dropout", "is no probability"),
        ("vocab", "is not key=value"),
        ("heads", "missing key"),
    ]
    assert caught.value.faults[1].allowed.startswith("did you mean layers?")
    with pytest.raises(SpecError, match="does not divide hidden"):
        parse_gpt("gpt:layers=1,hidden=64,heads=5")


@pytest.mark.parametrize("form", ["flash", "written-out"])
def test_parameters_and_flops_are_those_of_the_sizes(form: str) -> None:
    layers, width, heads, vocabulary, length, batch = 2, 128, 4, 512, 64, 3
    text = f"gpt:layers={layers},hidden={width},heads={heads},vocab={vocabulary},context={length},attention={form}"
    graph = capture(text, CaptureOptions(batch=batch))
    per_layer = 12 * width**2 + 13 * width
    assert graph.info.parameters == layers * per_layer + (vocabulary + length) * width + 2 * width
    # arXiv 2104.04473, appendix: 24 B s h^2 + 4 B s^2 h a layer forward, 2 B s h V the head
    tokens = batch * length
    forward = layers * (24 * tokens * width**2 + 4 * tokens * length * width) + 2 * tokens * width * vocabulary
    assert graph.matrix_flops(Phase.FORWARD) == forward
    attention = [o for o in graph.operators if o.kind is OperatorKind.ATTENTION]
    assert bool(attention) is (form == "flash")


def test_written_out_attention_computes_what_the_fused_operator_does() -> None:
    torch.manual_seed(0)
    sizes = GptConfig(width=32, layers=2, heads=4, context=16, vocabulary=50)
    fused = Gpt(sizes).eval()
    written_out = Gpt(replace(sizes, written_out=True)).eval()
    # the projection is laid out head by head there, as in Megatron-LM, and by query, key and value here
    state = fused.state_dict()
    for name in [name for name in state if "query_key_value" in name]:
        parts = state[name].view(3, 4, 8, *state[name].shape[1:])
        state[name] = parts.transpose(0, 1).reshape(state[name].shape)
    written_out.load_state_dict(state)
    tokens = torch.randint(50, (3, 16))
    torch.testing.assert_close(written_out(tokens), fused(tokens), atol=1e-5, rtol=1e-4)


def test_without_dropout_no_masks_are_kept() -> None:
    graph = capture(
        "gpt:layers=1,hidden=32,heads=2,vocab=64,context=16,dropout=0,attention=written-out", CaptureOptions()
    )
    assert not [o for o in graph.operators if "dropout" in o.name]


def test_context_is_the_longest_sequence() -> None:
    with pytest.raises(SpecError, match="seq_len"):
        capture("gpt:layers=1,hidden=32,heads=2,vocab=64,context=16", CaptureOptions(seq_len=17))
