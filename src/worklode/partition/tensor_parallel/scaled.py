"""The work of one device when a loop of an operator is divided: its share of every count, exactly.

A product is divided along the dimension the loop belongs to; vector work is in proportion to the iterations. Where a
count does not divide (a half block of random bits) it is rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from worklode.graph.loops import LoopKind, Nest
from worklode.graph.work import Product, Work
from worklode.partition.tensor_parallel.layout import Cut, portion


@dataclass(frozen=True, slots=True)
class Growth:
    """A loop that grows on every device: tokens of all devices meet at an expert.

    Attributes:
        loop: the loop.
        factor: iterations afterwards, of those before.
    """

    loop: int
    factor: int


def scaled_work(work: Work, nest: Nest, cut: Cut, growth: Growth | None = None) -> Work:
    """Work of one device.

    Args:
        work: work of the whole operator.
        nest: its loops.
        cut: the division.
        growth: another loop that grows; vector work then stays as it is, tokens being exchanged, not divided.
    """
    products = tuple(
        scaled_product(product, nest.product(place), nest, cut, growth) for place, product in enumerate(work.products)
    )
    kind = nest.kinds[cut.loop]
    # A look-up is done for every place: what is found on another device counts as zero. The epilogue of a product (a
    # bias) is work on its results, whether or not the reduction is divided.
    stays = kind is LoopKind.LOOKUP or growth is not None or (products and not _is_in_results(nest, cut.loop))
    part = Fraction(1) if stays else cut.share
    return replace(
        work,
        products=products,
        simple_ops=portion(work.simple_ops, part),
        special_ops=portion(work.special_ops, part),
        vector_elements=portion(work.vector_elements, part),
        reduction_bytes=portion(work.reduction_bytes, cut.share) if kind is LoopKind.ROW else work.reduction_bytes,
        random_accesses=portion(work.random_accesses, part),
    )


def scaled_product(
    product: Product, loops: tuple[int, int, int, int], nest: Nest, cut: Cut, growth: Growth | None = None
) -> Product:
    """A product with one dimension divided, and perhaps another grown."""
    factors = [_factor(mask, cut, growth) for mask in loops]
    batch, m, n, k = (
        portion(size, factor)
        for size, factor in zip((product.batch, product.m, product.n, product.k), factors, strict=True)
    )

    def elements(old: int, rows: int, columns: int, was: int) -> int:
        """Distinct elements of an operand; one shared across the batch stays shared."""
        ratio = factors[rows] * factors[columns] * (factors[0] if old > was // max(product.batch, 1) else 1)
        return portion(old, ratio)

    return replace(
        product,
        batch=batch,
        m=m,
        n=n,
        k=k,
        a_elements=elements(product.a_elements, 1, 3, product.batch * product.m * product.k),
        b_elements=elements(product.b_elements, 3, 2, product.batch * product.k * product.n),
        c_elements=elements(product.c_elements, 1, 2, product.batch * product.m * product.n),
    )


def _is_in_results(nest: Nest, loop: int) -> bool:
    return any(stride > 0 for stride in nest.results[loop :: len(nest.sizes)])


def _factor(mask: int, cut: Cut, growth: Growth | None) -> Fraction:
    """Iterations of a device over some loops, of all."""
    factor = cut.share if mask >> cut.loop & 1 else Fraction(1)
    return factor * growth.factor if growth is not None and mask >> growth.loop & 1 else factor


def scaled_nest(nest: Nest, cut: Cut, growth: Growth | None = None) -> Nest:
    """The loops of one device: the sizes, and the strides above the digit that was taken out of the operands."""
    sizes = list(nest.sizes)
    sizes[cut.loop] = portion(sizes[cut.loop], cut.share)
    if growth is not None:
        sizes[growth.loop] *= growth.factor
    count = len(nest.sizes)
    scaled = []
    for strides in (nest.operands, nest.results):
        flat: list[int] = []
        for start in range(0, len(strides), count or 1):
            flat.extend(_scaled_strides(strides[start : start + count], nest, cut, growth))
        scaled.append(tuple(flat))
    return replace(nest, sizes=tuple(sizes), operands=scaled[0], results=scaled[1])


def _scaled_strides(strides: tuple[int, ...], nest: Nest, cut: Cut, growth: Growth | None) -> list[int]:
    """Strides of a tensor of a device: those above the divided digit shrink, those above the grown loop grow."""
    own = strides[cut.loop] if strides else 0
    end = own * nest.sizes[cut.loop]
    found = [portion(s, cut.share) if own > 0 and s >= end > 0 else s for s in strides]
    if growth is not None and strides[growth.loop] > 0:
        limit = strides[growth.loop] * nest.sizes[growth.loop]
        found = [s * growth.factor if s >= limit else s for s in found]
    return found
