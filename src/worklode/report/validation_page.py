"""The page docs/validation.md, from a document of `validate`; what no figure says is written here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worklode.report.quantity import percent
from worklode.report.validation import efficiency_row, group_row, point_text

Document = Mapping[str, Any]

HEAD = """\
# Validation

Written by `worklode validate --write docs/validation.md`; do not edit. The reference tables are third-party data and
not part of the project: `--data DIR` or WORKLODE_DATA says where they are.

Errors are relative, |predicted / measured - 1|. *fitted* is the mean over the points that a fit of constants has
seen, *held out* over the others (a coin tossed by each row's own text); a dash where nothing was fitted. *naive* is
the mean error of a baseline, so that skill is visible: the roofline with published peaks plus 5 us, or a constant
utilisation. *rank* is Spearman's correlation. What misses its target is named below its table, and the text above
says why.
"""

ABOUT: Mapping[str, str] = {
    "systolic": """\
SCALE-Sim's compute cycles are reproduced by its closed forms, cycle for cycle. For Gemmini's RTL the model runs the
loops of the measured program with the measured mapping ([tensor cores](models/tensor_core.md)): blocks of at most 16
results of one row of the image, weights of the next fold behind the last block, every operand fetched again for every
tile, lines from an L2 of 512 KiB or from DRAM. One constant is fitted, the 7.5 cycles a pair of commands takes to
issue; with the 4 cycles that Gemmini's source gives as the least, nothing fitted, the mean error is 12.3 %.

The worst mappings fetch 16 bytes of weights at strides of 512 bytes and more. If the excess is theirs, such a miss
costs 18 to 25 cycles instead of the 8 of its line; strides of 720 and 1000 bytes do not show it, powers of two do, so
sets of the cache or banks of the DRAM conflict. Whether they do is not to be known without the image's memory map.""",
    "gemm": """\
Products run on the presets with their four constants. Rows of one shape from different sources differ by about 7 %.
Below 1 GFLOP a kernel is hardly more than its start; these rows are fitted with a lower weight and have no target.
The worst points are choices of the library: split K, a kernel made for another shape, and on A100 products of
little K, whose results are written at half of the bandwidth.""",
    "vector": """\
No vector operator was fitted: these are predictions by constants found on products and attention. The suite runs what
the measured programs ran, as far as their sources are public ([vector cores](models/vector_core.md)): softmax with the
operations PyTorch's kernel has, RMSNorm, silu and rotary embedding by vLLM's kernels of one row a thread block. Rows of
the eager program include what it spends beyond its kernels: its authors state how much for each operator; the smallest
row of each operator is what a call takes at least. Both are applied to prediction and baseline alike, and that row is
not compared. The second view leaves out rows of which it is half or more.

What remains: LayerNorm of 2048 to 8192 elements a row runs at 0.86 of the pins' bandwidth, products and GELU at 0.79,
which is the constant; softmax of rows of 4096, whose three passes take turns at the bandwidth of L1 and L2, which the
model does not have; rotary embedding of many rows, 30 % too fast for a reason not known; sums of 16 million elements
and more, which move faster than the constant allows too.""",
    "attention": """\
The measured operator is that of a serving engine: offsets of the sequences, rotary embedding into a key-value
cache, attention. Without the second kernel predictions are 2.5 times too short at sequence 128, where six of the
ten tensors moved are its own; the ratio gave it away and the measuring program confirms it. Softmax and products of
a thread block take turns ([attention](models/attention.md)); nothing of attention's shape is fitted.

The worst points have few heads: fewer thread blocks of 128 queries than multiprocessors, which the model splits
more finely than a kernel does, and causal blocks of unequal length.""",
    "layer": """\
GPT-3's layer on four A100 (LLMCompass), Q, K and V apart and attention written out, and a layer of a cookbook whose
times are stated in steps of 0.1 ms. What the eager program spends is added as in suite `vector`. Communication
between chips is not compared here.

Prefill: large products are 10 to 15 % too slow here. Three sources of such products on A100 (above 200 GFLOP) reach
86 % (LLMCompass), 84 % (kernels in a graph) and 74 % (Vidur) of the boost clock's peak; one constant has to serve all.
LLMCompass idles three seconds before 50 calls, which favours the clock, but no source says at which clock it ran, so
nothing is added. LayerNorm of 12 288 elements a row is counted as read twice; measured is a little less. Softmax of
the cookbook (7.6 ms for 1 GiB) is masked and converted in several kernels; the model has one.""",
    "collectives": """\
Constants of NVLink were fitted on half of the rows of the systems with NVSwitch in their name, and on none of others;
the form was settled in view of all rows, so held out means free of the values only ([network](models/network.md)). The
share of EFA was read from the largest AWS row, which counts as fitted. The baseline is bytes on the wire over the
published bandwidth. A later version of the source of the AWS rows says that PyTorch spends 20 to 30 us a call on the
host; 25 us are added to predictions and baseline there.

What is missed ([collectives](models/collective.md)): steps between 1 and 16 MiB, where a gather of 2 MiB takes more
than twice one of 1 MiB (likely changes of protocol and channels); vidur's tables, whose program launches from the
host and takes the duration of kernels, which wait for the slowest host: times of 60 us on A100 and 40 us on H100 at
sizes from 2 KiB to 2 MiB beside 10 to 26 us at sizes between (without the 3 rows of these from 1 MiB on the groups
would be 9.0 and 14.4 % off; they are kept); on four nodes of AWS what is below 512 MiB, whose floor of 360 us NCCL's
latencies do not explain, while longer messages are met within 8 %, given the share of EFA. All-to-all of 32 KiB to 1
MiB is off by up to a half either way; why is not known.""",
    "memory": """\
Captured GPTs with attention written out, divided by tensor and sequence parallelism, with recomputation, activations by
liveness ([stage memory](models/stage_memory.md)), microbatches in flight from the simulated schedule
([pipeline](models/pipeline.md)); nothing is fitted. Figures 1 and 7 are the authors' own closed forms, digitised: that
they are met shows that graph, sharding and schedule are those of Megatron-LM. Full recomputation differs by up to 1.1 %
because the figure's bars are that small.

The pipelines of the last table were measured. The first stage is not the fullest, for an embedding takes the place of a
layer there. Missed by most is the smallest model, by 2.5 to 3.3 GiB, then the next, by 1.1 to 2.6: the more tokens a
microbatch has, the more, so it is likely what kernels and the allocator hold, which the model leaves out. The sizes of
the models are marked as unverified in the table. Its zero-bubble schedule is the automatic one under 1F1B's memory;
here it is ZB-H1.""",
    "training": """\
Iterations of GPTs on 8 to 3072 A100 ([many devices](distributed.md)): attention written out, the kernels of Megatron-LM
one after another, gradients of microbatches added in kernels of their own; nothing is fitted. "Naive" has seen the
median of its own group and wins where settings are much alike. Of vTrain's rows a few settings take up to 1.7 times as
long as their neighbours, for no reason that the model has.

The last two groups are what iterations are made of. A layer of the 22B model is met within 1 % forward, 6 % backward.
Forward passes of the zero-bubble models are 12 to 17 % too short, input gradients 1 to 3 %, weight gradients 5 to 10 %
too long: what their program does beside products is not known in full. Their sizes are those of the authors' own
profile; vocabulary (51,200 assumed) and microbatch are not stated there.""",
    "silicon": """\
Areas of TPUs are published as upper bounds only. Fitted are the dies and powers named in [area](models/area.md) and
[power](models/power.md). The constants have not seen NVDLA with 1024 and 128 MACs, but which arrays the sizes have and
how logic shrinks from 28 to 16 nm was settled with all of them in view. All its 16 nm areas are 0.6 of those at 28 nm,
so one of the two columns is likely an estimate; they count as two points here. A100's links are counted with their
controllers, its floor plan shows the PHYs alone.""",
    "energy": """\
Few events are published independently of the sources the constants come from. MACs at 45 nm are off by a factor of
six: energies are stated at 7 nm and the scaling polynomials overstate old nodes
([technology](models/technology.md)). HBM energy is that of device and interface (3.9 pJ/bit) plus 1 pJ/bit for the
way across the die; regressions of whole boards attribute three times as much to a bit, voltage conversion and
memory controller included.""",
    "sram": """\
CACTI reports bare macros of its own cells; the model has memories as products have them, with arbitration, ECC,
repair and wiring ([technology](models/technology.md)). So areas are about 2.5 times CACTI's at all sizes: the ranks
agree, the level does not. Read energy grows with the root of the size up to one bank here; in CACTI it depends on
the width of the port as much, which the model does not have. Treat absolute energies of memories at old nodes as a
factor of several.""",
}


EFFICIENCY = """\
What no maker publishes: sustained over stated clock, sustained over pin bandwidth, start of an operator, most time
its buffers take to fill. Found by `benchmarks/fit_efficiency.py` ([efficiency](models/efficiency.md)); chips
without measurements are taken as ideal.
"""


def validation_page(document: Document) -> str:
    """Markdown of a document of `validate`."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Document) -> Iterator[str]:
    yield HEAD
    yield "## In one table\n"
    summary = [
        {"suite": suite["suite"], **group_row(group)}
        for suite in document["suites"]
        # A suite that has targets is told by them; one without by everything it compares.
        for group in [g for g in suite["groups"] if g["target"] is not None] or suite["groups"]
    ]
    yield from _table(summary)
    yield "## Efficiency constants\n"
    yield EFFICIENCY
    yield from _table([efficiency_row(chip) for chip in document["efficiency"]])
    for suite in document["suites"]:
        yield f"## {suite['suite']}: {suite['title']}\n"
        if suite["suite"] in ABOUT:
            yield ABOUT[suite["suite"]] + "\n"
        yield from _table([group_row(group) for group in suite["groups"]])
        for group in suite["groups"]:
            yield from _details(group)
        for skipped in suite["skipped"]:
            yield f"- left out: {skipped['count']} ({skipped['reason']})"
        yield ""


def _details(group: Document) -> Iterator[str]:
    if group["note"]:
        yield f"- {group['name']}: {group['note']}"
    if group["max_error"] > 0:
        worst = "; ".join(point_text(point, group["unit"]) for point in group["worst"])
        yield f"- worst of {group['name']} (median ratio {group['median_ratio']:.2f}): {worst}"
    if group["met"] is False:
        error = group["max_error"] if group["target_of"] == "every point" else group["mean_error"]
        yield f"- **missed**: {group['name']}, {percent(error)} against {percent(group['target'])}"


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    if not rows:
        return
    columns = list(rows[0])
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(row[column].replace("|", "/") for column in columns) + " |"
    yield ""
