"""The passes of fusion, in order: along data by bytes saved, attention chains, prologues, multi-tensor updates."""

from __future__ import annotations

from worklode.graph.fusion.facts import UPDATED_ROLES, Flow, GraphFacts, is_optimizer
from worklode.graph.fusion.legality import ILLEGAL, GroupFacts, Legality, Verdict
from worklode.graph.work import Product

_Candidate = tuple[int, int, int]


def fuse_along_data(legality: Legality) -> None:
    """Merge producers with readers, the pair that saves most bytes first, until nothing more is legal.

    The order decides who gets an operator that two groups could take: a product's result that only its epilogue reads
    saves a write and a read, a normalisation's operand that stays written anyway saves a read.
    """
    candidates = _candidates(legality)
    find = legality.grouping.find
    changed = True
    while changed:
        changed = False
        left: list[_Candidate] = []
        for candidate in candidates:
            one, other = find(candidate[1]), find(candidate[2])
            if one == other:
                continue
            verdict = legality.merge_streaming(one, other)
            changed = changed or verdict is Verdict.MERGED
            if verdict is Verdict.NOT_NOW:
                left.append(candidate)
        candidates = left


def _candidates(legality: Legality) -> list[_Candidate]:
    """(-bytes saved, producer, reader) of every tensor that could stay on chip, sorted."""
    facts = legality.facts
    flow, phase = facts.flow, facts.phase
    found: list[_Candidate] = []
    for index, tensor in enumerate(facts.graph.tensors):
        producer = tensor.producer
        readers = facts.readers[index]
        if producer < 0 or not readers or flow[producer] is Flow.CLOSED:
            continue
        saved = 0 if facts.stays[index] else facts.written[index] // len(readers)
        for reader, size in readers:
            if phase[reader] == phase[producer] and legality.edge_rows(index, reader, size) != ILLEGAL:
                found.append((-(size + saved), producer, reader))
    found.sort()
    return found


def fuse_attention(legality: Legality) -> None:
    """Chain product, row-wise operators and products into one where the rows are those of the first product.

    Only where the scores are larger than all other operands: then streaming those past them saves traffic. (A linear
    layer, a layer norm and the next linear layer have the same form, but re-reading both weights per row costs more.)
    """
    for group in legality.grouping.in_order():
        found = legality.group.get(group)
        if found is not None and found.anchor < 0 and found.rows and not found.closed:
            _chain_through(legality, group, found)


def _chain_through(legality: Legality, group: int, middle: GroupFacts) -> None:
    facts, grouping = legality.facts, legality.grouping
    before, after = _neighbours(legality, group)
    if len(before) != 1 or not after:
        return
    scores_group = before.pop()
    scores = _only_product(facts, legality.group[scores_group].anchor)
    if scores is None or scores.c_elements != middle.domain or middle.rows != scores.batch * scores.m:
        return
    if max(scores.a_elements, scores.b_elements) >= scores.c_elements:
        return
    consumers = {part for part in after if _consumes(facts, legality.group[part].anchor, scores)}
    parts = {group, scores_group, *consumers}
    if not consumers:
        return
    between, preceding = grouping.hull(parts)
    if between or not _chain_edges_are_legal(legality, parts, consumers):
        return
    merged = GroupFacts(
        phase=middle.phase,
        anchor=legality.group[scores_group].anchor,
        anchor_domain=scores.c_elements,
        domain=middle.domain,
        rows=middle.rows,
        depth=max(legality.group[part].depth for part in parts),
        closed=False,
    )
    legality.replace(parts, preceding, merged)


def _neighbours(legality: Legality, group: int) -> tuple[set[int], set[int]]:
    """Open product groups that feed a group, and those whose product reads it."""
    facts, find = legality.facts, legality.grouping.find
    before: set[int] = set()
    after: set[int] = set()
    for operator in legality.grouping.members[group]:
        for access in facts.graph.operators[operator].reads:
            producer = facts.graph.tensors[access.tensor].producer
            if producer >= 0:
                before.add(find(producer))
        for access in facts.graph.operators[operator].writes:
            after.update(find(reader) for reader, _ in facts.readers[access.tensor] if _only_product(facts, reader))
    return (
        {part for part in before if _is_open_product(legality, part, group)},
        {part for part in after if _is_open_product(legality, part, group)},
    )


def _is_open_product(legality: Legality, part: int, other: int) -> bool:
    """Is a group one product with neighbours, of the same phase as another, and no chain?"""
    found = legality.group[part]
    return (
        not found.closed
        and not found.rows
        and found.phase == legality.group[other].phase
        and _only_product(legality.facts, found.anchor) is not None
    )


def _only_product(facts: GraphFacts, operator: int) -> Product | None:
    if operator < 0 or facts.flow[operator] is not Flow.PRODUCT:
        return None
    products = facts.graph.operators[operator].work.products
    return products[0] if len(products) == 1 else None


def _consumes(facts: GraphFacts, operator: int, scores: Product) -> bool:
    """Has the product an operand of the shape of the scores, per member of the batch, as it is or transposed?"""
    product = _only_product(facts, operator)
    if product is None or product.batch != scores.batch:
        return False
    others = sorted((product.a_elements, product.b_elements, product.c_elements))[:2]
    shape = {scores.m, scores.n}
    return max(others) < scores.c_elements and shape in ({product.m, product.k}, {product.k, product.n})


def _chain_edges_are_legal(legality: Legality, parts: set[int], consumers: set[int]) -> bool:
    """The consuming products take the rows as an operand; everything else streams."""
    facts, grouping = legality.facts, legality.grouping
    for part in parts:
        for operator in grouping.members[part]:
            if not legality.ordered(operator, part, parts):
                return False
            for tensor, reader, size in legality.crossing(operator, part, parts):
                owner = grouping.find(reader)
                if owner in consumers and reader == legality.group[owner].anchor:
                    if facts.is_patch(tensor):
                        return False
                elif owner in consumers or legality.edge_rows(tensor, reader, size) != 0:
                    return False
    return True


def fuse_prologues(legality: Legality) -> None:
    """Compute a product's operand on its way in, where only it reads the operand and its sources are no larger."""
    facts = legality.facts
    for operator, flow in enumerate(facts.flow):
        if flow is not Flow.PRODUCT:
            continue
        for access in facts.graph.operators[operator].reads:
            producer = facts.graph.tensors[access.tensor].producer
            if producer >= 0:
                _try_prologue(legality, operator, access.tensor, access.bytes)


def _try_prologue(legality: Legality, product: int, operand: int, operand_bytes: int) -> None:
    facts, grouping = legality.facts, legality.grouping
    group, front = grouping.find(product), grouping.find(facts.graph.tensors[operand].producer)
    if group == front or legality.group[group].closed or legality.group[group].rows:
        return
    one = legality.group[front]
    same_phase = one.phase == legality.group[group].phase
    if one.closed or one.anchor >= 0 or one.rows or not same_phase or facts.is_patch(operand):
        return
    if not _only_makes(facts, grouping.members[front], operand, product, operand_bytes):
        return
    parts = {front, group}
    between, preceding = grouping.hull(parts)
    in_step = all(legality.ordered(operator, front, parts) for operator in grouping.members[front])
    if not between and in_step:
        legality.replace(parts, preceding, legality.group[group])


def _only_makes(facts: GraphFacts, front: list[int], operand: int, product: int, operand_bytes: int) -> bool:
    """Do these streaming operators make nothing but the operand, of sources that are no larger than it?"""
    graph = facts.graph
    inside = set(front)
    sources: dict[int, int] = {}
    for operator in front:
        if facts.flow[operator] is not Flow.STREAM:
            return False
        for access in graph.operators[operator].reads:
            if graph.tensors[access.tensor].producer not in inside:
                sources[access.tensor] = min(
                    sources.get(access.tensor, 0) + access.bytes, graph.tensors[access.tensor].bytes
                )
        for access in graph.operators[operator].writes:
            readers = {reader for reader, _ in facts.readers[access.tensor]}
            wanted = {product} if access.tensor == operand else inside
            versioned = facts.previous[access.tensor] >= 0 or facts.following[access.tensor] >= 0
            if facts.stays[access.tensor] or versioned or not readers or not readers <= wanted:
                return False
    return sum(sources.values()) <= operand_bytes


def fuse_updates(legality: Legality) -> None:
    """Group updates of what outlives the iteration: weights and their states, counters of batches seen.

    Weight updates of a block instance go together, others by neighbours up to a share of all bytes. Only what nothing
    in its phase waits for is grouped, so nothing comes later than it has to but the update itself.
    """
    graph, grouping = legality.facts.graph, legality.grouping
    offset = _update_offsets(legality.facts)
    limit = max(1, int(sum(graph.tensors[tensor].bytes for tensor in offset) * legality.options.update_share))
    buckets: dict[tuple[int, int, int], list[int]] = {}
    for group in grouping.in_order():
        found = legality.group[group]
        members = grouping.members[group]
        updated = _updated(legality, members, offset)
        if updated < 0 or found.closed or found.anchor >= 0 or found.rows or legality.is_read_in_phase(group, {group}):
            continue
        first = graph.operators[members[0]]
        in_block = first.block >= 0 and is_optimizer(found.phase)
        place = (first.block, first.instance) if in_block else (-1, offset[updated] // limit)
        buckets.setdefault((found.phase, *place), []).append(group)
    for bucket in buckets.values():
        if len(bucket) > 1:
            _merge_independent(legality, bucket)


def _updated(legality: Legality, members: list[int], offset: dict[int, int]) -> int:
    """Largest lasting tensor that operators update; -1 where there is none, or they make something else as well."""
    facts = legality.facts
    largest, size = -1, -1
    for member in members:
        for access in facts.graph.operators[member].writes:
            if access.tensor not in offset:
                if not is_optimizer(facts.phase[member]):
                    return -1
            elif access.bytes > size:
                largest, size = access.tensor, access.bytes
    return largest


def _update_offsets(facts: GraphFacts) -> dict[int, int]:
    """Where the last versions of all lasting tensors made in the iteration would lie, one after another [bytes].

    In the order of the tensors, which fusion keeps: what shares a bucket does not depend on what is fused already.
    """
    found: dict[int, int] = {}
    end = 0
    for index, tensor in enumerate(facts.graph.tensors):
        if tensor.producer >= 0 and tensor.role in UPDATED_ROLES and facts.following[index] < 0:
            found[index] = end
            end += tensor.bytes
    return found


def _merge_independent(legality: Legality, bucket: list[int]) -> None:
    """Merge groups that do not depend on one another: all at once, or in order until one does and starts the next."""
    if _merge_if_independent(legality, set(bucket)) is not None:
        return
    current = bucket[0]
    for group in bucket[1:]:
        merged = _merge_if_independent(legality, {current, group})
        current = group if merged is None else merged


def _merge_if_independent(legality: Legality, parts: set[int]) -> int | None:
    grouping = legality.grouping
    merged = legality.union(parts)
    if merged is None:
        return None
    between, preceding = grouping.hull(parts)
    if between:
        return None
    for part in parts:
        for operator in grouping.members[part]:
            if legality.crossing(operator, part, parts) or not legality.ordered(operator, part, parts):
                return None
    return legality.replace(parts, preceding, merged)
