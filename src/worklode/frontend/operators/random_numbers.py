"""Random numbers: counter-based generation on the lanes, as GPUs and TPUs do it.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011, section 4.3) makes
four 32-bit words from a counter in ten rounds; a round is two 32x32->64 bit multiplies (a low and a high half each:
four lane operations) and four exclusive ors; between rounds the two key words are bumped (two adds, nine times):
10·(4 + 4) + 9·2 = 98 lane operations for four words.

An operator of its own draws a word an element: curand_uniform4 serves four elements of a dropout (pytorch/pytorch,
aten/src/ATen/native/cuda/Dropout.cu). Kernels that draw less ask for `random_bits`.
"""

from __future__ import annotations

from worklode.frontend.call import Call, Description
from worklode.frontend.operators.rule import Lanes, Rule, in_all, in_place, on_lanes, overload, same_rule, tensor
from worklode.frontend.operators.scan_sort import sort_lanes
from worklode.graph.operator import OperatorKind

PHILOX_WORDS = 4
WORD_BITS = 32
PHILOX_OPS = 98
UNIFORM = Lanes(2)  # integer to float, scale by 2^-32


def random_bits(count: int, bits: int) -> int:
    """Lane operations to make `count` random numbers of `bits` bits [bit], cut out of whole blocks of four words."""
    return -(-count * bits // (PHILOX_WORDS * WORD_BITS)) * PHILOX_OPS


def random_words(count: int) -> int:
    """Lane operations to make `count` 32-bit random words."""
    return random_bits(count, WORD_BITS)


def uniforms(count: int) -> Lanes:
    """Lane operations to make `count` uniform random numbers in [0, 1)."""
    return UNIFORM.times(count).plus(random_words(count))


# Box and Muller (1958): a pair of normals from a pair of uniforms: sqrt(-2·log u)·(cos, sin)(2π·v). Per value half a
# log, half a root, one sine or cosine, one multiply and half of each of two multiplies; then scale and shift.
NORMAL = Lanes(4, 2)
EXPONENTIAL = Lanes(1, 1)  # -log(u)/lambda
GEOMETRIC = Lanes(2, 1)  # ceil(log(u)/log(1 - p))
CAUCHY = Lanes(3, 3)  # median + sigma·tan(π·(u - 1/2))
LOG_NORMAL = NORMAL.plus(0, 1)
BERNOULLI = Lanes(1)  # compare with p
SCALED_UNIFORM = Lanes(2)  # from + (to - from)·u
INTEGER = Lanes(2)  # from + high half of word·range


def random(per_value: Lanes, *, from_uniform: bool = True, reads_first: bool = False) -> Rule:
    """Rule of an operator that fills its result with random numbers, `per_value` on top of each uniform or raw word.

    In place, or for a `_like` form, the old values are not read; `reads_first` where they are probabilities,
    as the means of `normal` are.
    """

    def rule(call: Call) -> tuple[Description, ...]:
        values = sum(t.elements for t in call.outputs)
        lanes = uniforms(values) if from_uniform else Lanes(random_words(values))
        parameters = reads_first or call.packet == "normal"
        unread = None if parameters and not in_place(call) and overload(call) != "p" else {0: 0}
        return on_lanes(call, OperatorKind.RANDOM, in_all(lanes, per_value.times(values)), reads=unread)

    return rule


def dropout(call: Call) -> tuple[Description, ...]:
    """`native_dropout(x, p, train)`: a uniform, a compare for the mask, two multiplies; a move and a store else."""
    x = tensor(call, 0)
    if len(call.args) > 2 and call.args[2] is False:
        return on_lanes(call, OperatorKind.MOVEMENT, Lanes(2 * x.elements))
    return on_lanes(call, OperatorKind.RANDOM, in_all(uniforms(x.elements), Lanes(3 * x.elements)))


def noisy_relu(call: Call) -> tuple[Description, ...]:
    """`rrelu_with_noise(x, noise, ...)`: a slope drawn for every element, compare, two selects, multiply."""
    x = tensor(call, 0)
    lanes = in_all(uniforms(x.elements), SCALED_UNIFORM.times(x.elements), Lanes(4 * x.elements))
    return on_lanes(call, OperatorKind.RANDOM, lanes, reads={1: 0})


def permutation(call: Call) -> tuple[Description, ...]:
    """`randperm`: random words as keys, sorted."""
    n = sum(t.elements for t in call.outputs)
    lanes = in_all(Lanes(random_words(n)), sort_lanes(n, KEY_BYTES))
    return on_lanes(call, OperatorKind.RANDOM, lanes, serial_steps=KEY_BYTES)


def multinomial(call: Call) -> tuple[Description, ...]:
    """`multinomial`: argmax of p/e with e exponential (an exponential race); top-k of the race without replacement."""
    n = tensor(call, 0).elements
    lanes = in_all(uniforms(n), EXPONENTIAL.times(n), Lanes(2, 1).times(n))
    return on_lanes(call, OperatorKind.RANDOM, lanes)


KEY_BYTES = 4

RULES: dict[str, Rule] = {
    **same_rule(random(Lanes()), "rand", "rand_like"),
    "uniform": random(SCALED_UNIFORM),
    **same_rule(random(NORMAL), "randn", "randn_like", "normal", "normal_functional"),
    "log_normal": random(LOG_NORMAL),
    "exponential": random(EXPONENTIAL),
    "geometric": random(GEOMETRIC),
    "cauchy": random(CAUCHY),
    "bernoulli": random(BERNOULLI, reads_first=True),
    **same_rule(random(INTEGER, from_uniform=False), "randint", "randint_like", "random"),
    **same_rule(dropout, "native_dropout", "_fused_dropout"),
    "rrelu_with_noise": noisy_relu,
    "randperm": permutation,
    "multinomial": multinomial,
}
