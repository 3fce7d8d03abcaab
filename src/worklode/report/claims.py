"""What `reproduce` says of worklode's own search: how much sooner it is there than Spotlight-like; who is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from worklode.report.markdown import markdown_table
from worklode.report.quantity import MISSING, count, percent, plain, seconds
from worklode.report.table import listing

if TYPE_CHECKING:
    from rich.console import RenderableType

Document = Mapping[str, Any]

# A rival that had this much less than its time [1] is said to have: a budget is looked at between batches of designs.
SHORT = 0.01
SPEED_NUMBERS = ("its CPU", "over", "ours, whole", "over ours", "until its design", "over that", "fits often")
RIVAL_NUMBERS = ("designs", "CPU", "times mine", "figure", "mine", "ahead", "as judged", "gap")
ABOUT_SPEED = """\
CPU seconds of the run at its default budget, and how far its design is above the best anybody found; then of worklode's
run, proof and thorough schedules included, and of the part of it until worklode had asked for the design it ended with.
Which of the designs it asked for is the best it knows only at the end, from thorough schedules and the proof: the
second time is that of having reached it, the first that of knowing so.
*fits often*: the same two ratios if Spotlight-like fits its process after every sample, and not once for ten, which is
an assumption (the sizes of batches of its paper were not at hand): measured for one design, the budget's, times
{designs}.
"""
ABOUT_RIVALS = """\
Searchers that do not end by themselves, each given so many times the CPU time that `mine` takes for the model, proof
and report included. *ahead*: how far the best design of the rival is below that of `mine`, finalists of both scheduled
as `mine` schedules its own; negative where `mine` is better. *as judged*: the same by the rules of the bench, which
schedule fewer finalists with the utmost effort. *gap*: the rival's design over the bound that `mine` proves.
"""


def claims_report(claims: Document) -> Iterator[RenderableType]:
    """Tables on the terminal."""
    from rich.text import Text

    if claims["speed"]:
        yield ""
        yield Text("Search time against Spotlight-like", style="bold")
        yield listing([speed_row(row) for row in claims["speed"]], right=SPEED_NUMBERS)
        yield from (Text(line) for line in speed_sentences(claims))
    if claims["rivals"]:
        yield ""
        yield Text("Rivals that are given more time", style="bold")
        yield listing([rival_row(row) for row in claims["rivals"]], right=RIVAL_NUMBERS)
        yield from (Text(line) for line in rival_sentences(claims))


def claims_lines(claims: Document) -> Iterator[str]:
    """Markdown sections."""
    if claims["speed"]:
        yield "## Search time against Spotlight-like\n"
        yield from (f"{line}\n" for line in speed_sentences(claims))
        yield ABOUT_SPEED.format(designs=claims["speed"][0]["sequential_designs"])
        yield from markdown_table([speed_row(row) for row in claims["speed"]])
    yield "## Rivals that are given more time\n"
    if claims["not_run"]:
        yield f"Not run here: {', '.join(claims['not_run'])}.\n"
    if not claims["rivals"]:
        yield "No row: none was run (`--rivals`), or none found a design within the limits.\n"
        return
    yield from (f"{line}\n" for line in rival_sentences(claims))
    yield ABOUT_RIVALS
    yield from markdown_table([rival_row(row) for row in claims["rivals"]])


def speed_sentences(claims: Document) -> Iterator[str]:
    """What holds on all models, for each opponent."""
    wanted = claims["times_less"]
    for opponent in dict.fromkeys(row["opponent"] for row in claims["speed"]):
        rows = [row for row in claims["speed"] if row["opponent"] == opponent]
        ended = [row for row in rows if row["opponent_finished"] and row["worklode_finished"]]
        if not ended:
            yield f"{opponent}: on no model both came to their own end, so nothing is said of its time."
            continue
        reached = [row for row in ended if row["times_to_final"] >= wanted]
        least = min(ended, key=lambda row: float(row["times_to_final"]))
        whole = min(ended, key=lambda row: float(row["times_whole"]))
        behind = max(claims["speed"], key=lambda row: float(row["worklode_over_best"]))
        best = (
            "worklode's design is the best anybody found on every model"
            if behind["worklode_over_best"] <= 1.0
            else f"worklode's design is up to {percent(behind['worklode_over_best'] - 1.0)} above the best anybody "
            f"found ({behind['model']})"
        )
        yield (
            f"{opponent}, {_models(len(ended), len(rows))}: until worklode asks for its design it takes "
            f"{plain('')(least['times_to_final'])} times ({least['model']}) or more less CPU time, and {wanted:g} "
            f"times or more on {len(reached)}; with proof and thorough schedules, "
            f"{plain('')(whole['times_whole'])} times ({whole['model']}) or more, and {wanted:g} times or more on "
            f"{sum(1 for row in ended if row['times_whole'] >= wanted)}. {best[0].upper()}{best[1:]}."
        )
        often = [row for row in ended if row["times_sequential_to_final"] is not None]
        if often:
            final = min(often, key=lambda row: float(row["times_sequential_to_final"]))
            yield (
                f"If {opponent} fitted after every sample: {plain('')(final['times_sequential_to_final'])} times "
                f"({final['model']}) or more until its design, {wanted:g} times or more on "
                f"{sum(1 for row in often if row['times_sequential_to_final'] >= wanted)} models; with proof on "
                f"{sum(1 for row in often if row['times_sequential_whole'] >= wanted)}."
            )


def rival_sentences(claims: Document) -> Iterator[str]:
    """Whether any rival is ahead."""
    rows: Sequence[Document] = claims["rivals"]
    ahead = sorted((row for row in rows if row["ahead"] > 0.0), key=lambda row: -float(row["ahead"]))
    models = len({row["model"] for row in rows})
    runs = f"{len(rows)} comparisons on {models} models, {claims['times_more']:g} times the time"
    short = [row for row in rows if row["times"] < claims["times_more"] * (1.0 - SHORT)]
    if short:
        least = min(short, key=lambda row: float(row["times"]))
        runs += f" ({len(short)} had less; {_at(least)} {plain('')(least['times'])} times)"
    if not ahead:
        alike = sum(1 for row in rows if row["ahead"] == 0.0)
        behind = [row for row in rows if row["ahead"] < 0.0]
        said = f"{runs}: none is better than `mine`, and {alike} are as good"
        if behind:
            nearest = max(behind, key=lambda row: float(row["ahead"]))
            said += f"; of the others the nearest is {_at(nearest)}, {_small(-nearest['ahead'])} behind"
        yield said + "."
        return
    named = ", ".join(f"{_at(row)} by {_small(row['ahead'])}" for row in ahead)
    yield f"{runs}: {len(rows) - len(ahead)} are not better than `mine`; better are {named}."


def speed_row(row: Document) -> dict[str, str]:
    """One opponent on one model."""
    over = row["opponent_over_best"]
    return {
        "model": str(row["model"]),
        "opponent": str(row["opponent"]),
        "its CPU": ("" if row["opponent_finished"] else "> ") + seconds(row["opponent_cpu_s"]),
        "over": MISSING if over is None else percent(over - 1.0),
        "ours, whole": ("" if row["worklode_finished"] else "> ") + seconds(row["worklode_cpu_s"]),
        "over ours": plain("")(row["times_whole"]),
        "until its design": seconds(row["worklode_to_final_cpu_s"]),
        "over that": plain("")(row["times_to_final"]),
        "fits often": _times(row["times_sequential_whole"], row["times_sequential_to_final"]),
    }


def rival_row(row: Document) -> dict[str, str]:
    """One rival on one model."""
    return {
        "model": str(row["model"]),
        "rival": str(row["rival"]),
        "designs": count(row["evaluations"]),
        "CPU": seconds(row["cpu_s"]),
        "times mine": plain("")(row["times"]),
        "figure": f"{row['figure']:.5g}",
        "mine": f"{row['mine_figure']:.5g}",
        "ahead": _small(row["ahead"]),
        "as judged": _small(1.0 - row["judged_figure"] / row["mine_figure"]),
        "gap": percent(row["gap"]),
    }


def _times(*found: float | None) -> str:
    return MISSING if None in found else " / ".join(plain("")(one) for one in found)


def _small(share: float) -> str:
    """Per cent with three decimals: what is compared differs by less than a tenth of one."""
    return f"{share * 100.0:.3f} %"


def _models(ended: int, all_of_them: int) -> str:
    return (
        f"{ended} models" if ended == all_of_them else f"{ended} of {all_of_them} models where both came to their end"
    )


def _at(row: Document) -> str:
    return f"{row['rival']} on {row['model']}"
