"""`gpt:layers=24,hidden=2304,heads=24`: a GPT of any size as the text of a workload. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches

from worklode.errors import Fault, SpecError

PREFIX = "gpt:"
ATTENTION = ("flash", "written-out")
# Vocabulary of GPT-2 (50,257) padded to a multiple of 1024, as in every configuration of arXiv 2104.04473, table 1.
VOCABULARY = 51_200
CONTEXT = 2048  # tokens; arXiv 2104.04473, section 5.1, and arXiv 2205.05198, table 3
DROPOUT = 0.1  # GPT-2 (2019); the dropout masks in the memory of arXiv 2205.05198, section 4.1


@dataclass(frozen=True, slots=True, kw_only=True)
class GptText:
    """Sizes of a GPT.

    Attributes:
        layers, hidden, heads: number of layers, width, attention heads.
        ffn: width inside the feed-forward block; 0 for four times `hidden`.
        vocab: rows of the embedding and of the head, which are tied.
        context: rows of the position table.
        attention: "flash", one operator that keeps no scores; "written-out", products, softmax and dropout as operators
            of their own, sequence first, as Megatron-LM ran before flash attention.
        dropout: of embeddings, attention weights and both blocks of a layer; 0 leaves the operators out.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int = 0
    vocab: int = VOCABULARY
    context: int = CONTEXT
    attention: str = "flash"
    dropout: float = DROPOUT


def is_gpt_text(text: str) -> bool:
    """Does the text of a workload describe a GPT?"""
    return text.startswith(PREFIX)


def parse_gpt(text: str) -> GptText:
    """Sizes from `gpt:key=value,...`.

    Raises:
        SpecError: an unknown, repeated or missing key, or a value out of its range: every one at once.
    """
    faults: list[Fault] = []
    given: dict[str, int | float | str] = {}
    for item in filter(None, text.removeprefix(PREFIX).split(",")):
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or key not in _KEYS or key in given:
            problem = "given twice" if key in given else "unknown key" if equals else "is not key=value"
            near = get_close_matches(key, _KEYS, n=1, cutoff=0.5)
            allowed = f"did you mean {near[0]}? ({', '.join(_KEYS)})" if near and key not in given else ", ".join(_KEYS)
            faults.append(_fault(text, key, item, problem, allowed))
            continue
        given[key] = _value(text, key, value.strip(), faults)
    faults.extend(
        _fault(text, key, "", "missing key", f"{PREFIX}layers=24,hidden=2304,heads=24")
        for key in ("layers", "hidden", "heads")
        if key not in given and not any(fault.path == key for fault in faults)
    )
    if not faults and int(given["hidden"]) % int(given["heads"]):
        found = f"hidden {given['hidden']}, heads {given['heads']}"
        faults.append(_fault(text, "heads", found, "does not divide hidden", "heads that divide hidden"))
    if faults:
        raise SpecError(*faults)
    return GptText(**given)  # type: ignore[arg-type]


_KEYS = tuple(field.name for field in fields(GptText))


def _value(text: str, key: str, value: str, faults: list[Fault]) -> int | float | str:
    if key == "attention":
        if value not in ATTENTION:
            faults.append(_fault(text, key, value, "unknown form of attention", ", ".join(ATTENTION)))
        return value
    if key == "dropout":
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0.0 <= number < 1.0:
            faults.append(_fault(text, key, value, "is no probability", "0 up to below 1"))
        return number
    if not value.isascii() or not value.isdecimal() or int(value) < (0 if key == "ffn" else 1):
        faults.append(_fault(text, key, value, "is no positive whole number", "1, 2, 3, ..."))
        return 1
    return int(value)


def _fault(text: str, key: str, value: str, problem: str, allowed: str) -> Fault:
    return Fault(where=text, path=key, value=value, problem=problem, allowed=allowed)
