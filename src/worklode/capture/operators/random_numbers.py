"""Random numbers: counter-based generation on the lanes, as GPUs and TPUs do it.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011, section 4.3) makes
four 32-bit words from a counter in ten rounds; a round is two 32x32->64 bit multiplies (a low and a high half each:
four lane operations) and four exclusive ors; between rounds the two key words are bumped (two adds, nine times):
10·(4 + 4) + 9·2 = 98 lane operations for four words.
"""

from __future__ import annotations

from worklode.capture.operators.rule import Lanes

PHILOX_WORDS = 4
PHILOX_OPS = 98
UNIFORM = Lanes(2)  # integer to float, scale by 2^-32


def random_words(count: int) -> int:
    """Lane operations to make `count` 32-bit random words."""
    return -(-count // PHILOX_WORDS) * PHILOX_OPS


def uniforms(count: int) -> Lanes:
    """Lane operations to make `count` uniform random numbers in [0, 1)."""
    return UNIFORM.times(count).plus(random_words(count))
