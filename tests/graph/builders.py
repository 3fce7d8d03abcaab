"""Small typical training graphs, built by hand: what the tests of this folder work on.

Sizes are elements; one `GraphBuilder` method makes one operator and returns the tensor it wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from worklode.graph.operator import Access, Operator, OperatorKind, Phase, Tensor, TensorRole
from worklode.graph.training_graph import Block, TrainingGraph, WorkloadInfo
from worklode.graph.work import Product, Work

ELEMENT_BYTES = {"bfloat16": 2, "float32": 4, "bool": 1, "int64": 8}

INFO = WorkloadInfo(name="hand-built", parameters=0, trainable_parameters=0, samples=1, tokens=0)


@dataclass
class GraphBuilder:
    """Appends operators in order; every new tensor gets a storage of its own unless it is written in place."""

    phase: Phase = Phase.FORWARD
    module: str = ""
    block: int = -1
    instance: int = -1
    dtype: str = "bfloat16"
    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    storages: int = 0
    readers: dict[int, list[int]] = field(default_factory=dict)

    def graph(self) -> TrainingGraph:
        """What was built, with `saved` set on what forward made and backward reads."""
        tensors = list(self.tensors)
        for operator in self.operators:
            for access in operator.reads if operator.phase is Phase.BACKWARD else ():
                tensor = tensors[access.tensor]
                if tensor.producer >= 0 and self.operators[tensor.producer].phase is Phase.FORWARD:
                    tensors[access.tensor] = replace(tensor, saved=True)
        return TrainingGraph(
            info=INFO, tensors=tuple(tensors), operators=tuple(self.operators), blocks=tuple(self.blocks)
        )

    def elements(self, tensor: int) -> int:
        """Elements of a tensor."""
        return self.tensors[tensor].bytes // ELEMENT_BYTES[self.tensors[tensor].dtype]

    def given(self, elements: int, role: TensorRole = TensorRole.INPUT, name: str = "", dtype: str = "") -> int:
        """A tensor that exists before the iteration."""
        return self._tensor(elements, role, producer=-1, name=name, dtype=dtype or self.dtype)

    def parameter(self, elements: int, name: str = "weight") -> int:
        """A parameter."""
        return self.given(elements, TensorRole.PARAMETER, name)

    def _tensor(
        self, elements: int, role: TensorRole, producer: int, dtype: str, name: str = "", over: int | None = None
    ) -> int:
        if over is None:
            storage, size = self.storages, elements * ELEMENT_BYTES[dtype]
            self.storages += 1
        else:
            old = self.tensors[over]
            storage, size, dtype, role, name = old.storage, old.bytes, old.dtype, old.role, old.name
        self.tensors.append(Tensor(storage=storage, bytes=size, dtype=dtype, role=role, producer=producer, name=name))
        return len(self.tensors) - 1

    def op(
        self,
        name: str,
        kind: OperatorKind,
        reads: tuple[int | tuple[int, int], ...],
        writes: tuple[int, ...] = (),
        *,
        work: Work = Work(),  # noqa: B008 - immutable
        role: TensorRole | None = None,
        dtype: str = "",
        over: tuple[int, ...] = (),
        after: tuple[int, ...] = (),
        gradient_of: str = "",
    ) -> tuple[int, ...]:
        """Append an operator: reads tensors or `(tensor, elements)`, writes new ones of these sizes, or in place."""
        index = len(self.operators)
        backward = self.phase is Phase.BACKWARD
        role = role or (TensorRole.ACTIVATION_GRADIENT if backward else TensorRole.ACTIVATION)
        made = [self._tensor(size, role, index, dtype or self.dtype) for size in writes]
        for old in over:
            after = tuple(sorted({*after, *self.readers.get(old, ())}))
            made.append(self._tensor(0, role, index, self.dtype, over=old))
        for operand in reads:
            self.readers.setdefault(operand if isinstance(operand, int) else operand[0], []).append(index)
        self.operators.append(
            Operator(
                name=name,
                kind=kind,
                phase=self.phase,
                module=self.module,
                work=work,
                reads=tuple(self._access(r) for r in reads),
                writes=tuple(self._access(w) for w in made),
                after=after,
                block=self.block,
                instance=self.instance,
                gradient_of=gradient_of,
            )
        )
        return tuple(made)

    def _access(self, operand: int | tuple[int, int]) -> Access:
        if isinstance(operand, int):
            return Access(tensor=operand, bytes=self.tensors[operand].bytes)
        tensor, elements = operand
        return Access(tensor=tensor, bytes=elements * ELEMENT_BYTES[self.tensors[tensor].dtype])

    def narrow_last_write(self, elements: int) -> None:
        """Let the last operator write only so many elements of its last result."""
        last = self.operators[-1]
        tensor = last.writes[-1].tensor
        self.operators[-1] = replace(last, writes=(*last.writes[:-1], self._access((tensor, elements))))

    def elementwise(self, *reads: int, name: str = "add", elements: int = 0, special: int = 0, dtype: str = "") -> int:
        """One result of the size of the largest operand (or `elements`)."""
        size = elements or max(self.elements(r) for r in reads)
        work = Work(
            simple_ops=size,
            special_ops=special * size,
            vector_elements=size + sum(self.elements(r) for r in reads),
        )
        return self.op(name, OperatorKind.ELEMENTWISE, reads, (size,), work=work, dtype=dtype)[0]

    def in_place(self, over: int, *reads: int, name: str = "add_") -> int:
        """An elementwise update of `over`."""
        size = self.elements(over)
        work = Work(simple_ops=size, vector_elements=2 * size + sum(self.elements(r) for r in reads))
        return self.op(name, OperatorKind.ELEMENTWISE, (over, *reads), work=work, over=(over,))[0]

    def dropout(self, read: int) -> tuple[int, int]:
        """Result and mask."""
        size = self.elements(read)
        work = Work(simple_ops=4 * size, vector_elements=3 * size)
        index = len(self.operators)
        (result,) = self.op("native_dropout", OperatorKind.ELEMENTWISE, (read,), (size,), work=work)
        mask = self._tensor(size, TensorRole.ACTIVATION, index, "bool")
        last = self.operators[index]
        self.operators[index] = replace(last, writes=(*last.writes, self._access(mask)))
        return result, mask

    def matmul(
        self, a: int, b: int, m: int, n: int, k: int, *, batch: int = 1, name: str = "mm", gradient_of: str = ""
    ) -> int:
        """C[m, n] = A[m, k] B[k, n]."""
        product = Product(
            batch=batch,
            m=m,
            n=n,
            k=k,
            a_elements=batch * m * k,
            b_elements=self.elements(b),
            c_elements=batch * m * n,
            element_bytes=2,
        )
        role = None if gradient_of != "weight" else TensorRole.GRADIENT
        return self.op(
            name,
            OperatorKind.MATMUL,
            (a, b),
            (batch * m * n,),
            work=Work(products=(product,)),
            role=role,
            gradient_of=gradient_of,
        )[0]

    def reduction(self, read: int, elements: int, name: str = "sum", role: TensorRole | None = None) -> int:
        """Sum into `elements` results."""
        size = self.elements(read)
        work = Work(simple_ops=size, vector_elements=size + elements)
        return self.op(name, OperatorKind.REDUCTION, (read,), (elements,), work=work, role=role)[0]

    def rows(self, read: int, rows: int, *, kind: OperatorKind, name: str, weights: tuple[int, ...] = ()) -> int:
        """A softmax or normalisation over rows, with its row statistics where it has weights."""
        size = self.elements(read)
        work = Work(
            simple_ops=4 * size,
            special_ops=size if kind is OperatorKind.SOFTMAX else rows,
            vector_elements=2 * size,
            reduction_bytes=self.tensors[read].bytes // rows,
        )
        statistics = (rows, rows) if kind is OperatorKind.NORMALIZATION else ()
        return self.op(name, kind, (read, *weights), (size, *statistics), work=work)[0]

    def collective(self, read: int) -> int:
        """An all-reduce: fused with nothing."""
        return self.op("all_reduce", OperatorKind.COLLECTIVE, (read,), (self.elements(read),))[0]

    def layer_norm(self, read: int, width: int) -> int:
        """Layer normalisation over the last `width` elements."""
        weights = (self.parameter(width, "ln.weight"), self.parameter(width, "ln.bias"))
        rows = self.elements(read) // width
        return self.rows(read, rows, kind=OperatorKind.NORMALIZATION, name="native_layer_norm", weights=weights)

    def softmax(self, read: int, width: int) -> int:
        """Softmax over the last `width` elements."""
        return self.rows(read, self.elements(read) // width, kind=OperatorKind.SOFTMAX, name="_softmax")


def linear_gelu_dropout_residual(tokens: int = 64, width: int = 32) -> GraphBuilder:
    """x + dropout(gelu(x W + b)), forward only."""
    b = GraphBuilder()
    x, weight, bias = b.given(tokens * width), b.parameter(width * width), b.parameter(width, "bias")
    y = b.matmul(x, weight, tokens, width, width)
    y = b.elementwise(y, bias, name="add")
    y = b.elementwise(y, name="gelu", special=1)
    y, _ = b.dropout(y)
    b.elementwise(y, x, name="add")
    return b


def linear_gelu_training(tokens: int = 64, width: int = 32) -> GraphBuilder:
    """x W1 -> gelu -> W2, its backward with bias gradient, and the two weight gradients."""
    b = GraphBuilder()
    x, w1, w2 = b.given(tokens * width), b.parameter(width * width, "w1"), b.parameter(width * width, "w2")
    bias = b.parameter(width, "bias")
    h = b.elementwise(b.matmul(x, w1, tokens, width, width), bias)
    g = b.elementwise(h, name="gelu", special=1)
    y = b.matmul(g, w2, tokens, width, width)
    b.phase = Phase.BACKWARD
    dy = b.elementwise(y, name="loss_backward")
    dg = b.matmul(dy, w2, tokens, width, width, gradient_of="input")
    b.matmul(dy, g, width, width, tokens, gradient_of="weight")
    dh = b.elementwise(dg, h, name="gelu_backward", special=1)
    b.reduction(dh, width, role=TensorRole.GRADIENT)
    b.matmul(dh, x, width, width, tokens, gradient_of="weight")
    b.matmul(dh, w1, tokens, width, width, gradient_of="input")
    return b


def conv_bn_relu(batch: int = 4, pixels: int = 64, channels: int = 8) -> GraphBuilder:
    """Convolution, batch normalisation and an activation in place, twice, with a residual."""
    b = GraphBuilder()
    size = batch * pixels * channels
    x = b.given(size)
    y = x
    for layer in range(2):
        weight = b.parameter(9 * channels * channels, f"conv{layer}")
        y = b.matmul(y, weight, batch * pixels, channels, 9 * channels, name="convolution")
        y = b.rows(
            y,
            channels,
            kind=OperatorKind.NORMALIZATION,
            name="native_batch_norm",
            weights=(b.parameter(channels, "bn.weight"), b.parameter(channels, "bn.bias")),
        )
        if layer:
            y = b.in_place(y, x)
        y = b.in_place(y, name="relu_")
    return b


def attention_written_out(
    heads: int = 4, length: int = 16, head_width: int = 8, *, training: bool = True
) -> GraphBuilder:
    """softmax(scale(Q K^T) + mask) with dropout, times V; and its backward."""
    b = GraphBuilder()
    q, k, v = (b.given(heads * length * head_width) for _ in range(3))
    mask = b.given(length * length)
    scores = b.matmul(q, k, length, length, head_width, batch=heads, name="bmm")
    scores = b.elementwise(scores, name="mul")
    scores = b.elementwise(scores, mask, name="add")
    p = b.softmax(scores, length)
    dropped, dropout_mask = b.dropout(p)
    context = b.matmul(dropped, v, length, head_width, length, batch=heads, name="bmm")
    if not training:
        return b
    b.phase = Phase.BACKWARD
    dc = b.elementwise(context, name="loss_backward")
    b.matmul(dropped, dc, length, head_width, length, batch=heads, name="bmm", gradient_of="input")
    dp = b.matmul(dc, v, length, length, head_width, batch=heads, name="bmm", gradient_of="input")
    dp = b.elementwise(dp, dropout_mask, name="native_dropout_backward")
    size = b.elements(dp)
    work = Work(simple_ops=4 * size, vector_elements=3 * size, reduction_bytes=2 * 2 * length)
    (ds,) = b.op("_softmax_backward_data", OperatorKind.SOFTMAX, (dp, p), (size,), work=work)
    ds = b.elementwise(ds, name="mul")
    b.matmul(ds, k, length, head_width, length, batch=heads, name="bmm", gradient_of="input")
    b.matmul(ds, q, length, head_width, length, batch=heads, name="bmm", gradient_of="input")
    return b


def rms_norm_written_out(tokens: int = 64, width: int = 32) -> GraphBuilder:
    """Residual product, then y = w * bf16(f32(x) * rsqrt(mean(f32(x)^2) + eps)), and the next product."""
    b = GraphBuilder()
    residual, w0 = b.given(tokens * width), b.parameter(width * width, "w0")
    scale, w1 = b.parameter(width, "norm"), b.parameter(width * width, "w1")
    x = b.elementwise(b.matmul(residual, w0, tokens, width, width), residual)
    wide = b.elementwise(x, name="_to_copy", dtype="float32")
    squares = b.elementwise(wide, name="pow", dtype="float32")
    mean = b.reduction(squares, tokens, name="mean")
    mean = b.elementwise(mean, name="add")
    inverse = b.elementwise(mean, name="rsqrt", special=1)
    normed = b.elementwise(wide, inverse, name="mul", dtype="float32")
    narrow = b.elementwise(normed, name="_to_copy")
    y = b.elementwise(narrow, scale, name="mul")
    y = b.matmul(y, w1, tokens, width, width)
    b.elementwise(y, x, name="add")
    return b


def adam_updates(sizes: tuple[int, ...] = (256, 32, 256, 32), repeats: int = 1) -> GraphBuilder:
    """One gradient product per parameter, then its Adam update written out; `repeats` block instances."""
    b = GraphBuilder(phase=Phase.BACKWARD)
    b.blocks = [Block(path="layers", first=0, count=repeats)]
    updates: list[tuple[int, int, int, int, int]] = []
    x = b.given(64)
    for instance in range(repeats):
        b.block, b.instance = 0, instance
        for place, size in enumerate(sizes):
            name = f"layers.{instance}.p{place}"
            p = b.parameter(size, name)
            m, v = (b.given(size, TensorRole.OPTIMIZER_STATE, name) for _ in range(2))
            gradient = b.matmul(x, p, size, 1, 64, gradient_of="weight")
            updates.append((instance, p, m, v, gradient))
    b.phase = Phase.OPTIMIZER
    for instance, p, m, v, gradient in updates:
        b.instance = instance
        mean = b.in_place(b.in_place(m, name="mul_"), gradient)
        square = b.in_place(b.in_place(v, name="mul_"), gradient, name="addcmul_")
        denominator = b.elementwise(square, name="sqrt", special=1)
        b.in_place(p, mean, denominator, name="addcdiv_")
    return b


def transformer_training(
    layers: int = 2, tokens: int = 64, width: int = 32, heads: int = 4, batch: int = 1
) -> GraphBuilder:
    """A GPT-like decoder, forward, backward, one update per parameter: as many operators a layer as captured."""
    b = GraphBuilder()
    b.blocks = [Block(path="h", first=0, count=layers)]
    x = b.given(tokens * width)
    saved: list[dict[str, int]] = []
    for layer in range(layers):
        b.block, b.instance, b.module = 0, layer, f"h.{layer}"
        s: dict[str, int] = {"x": x}
        saved.append(s)
        s["ln1"] = b.layer_norm(x, width)
        for name, inner, outer in (("qkv", width, 3 * width), ("o", width, width), ("up", width, 4 * width)):
            s[f"w_{name}"] = b.parameter(inner * outer, f"h.{layer}.{name}")
            s[f"b_{name}"] = b.parameter(outer, f"h.{layer}.{name}.bias")
        s["w_down"] = b.parameter(4 * width * width, f"h.{layer}.down")
        s["qkv"] = _linear(b, s["ln1"], s["w_qkv"], tokens, 3 * width, width)
        s["context"] = _attention(b, (s["qkv"],), tokens, width, heads, batch, outputs=1)[0]
        s["moved"] = b.elementwise(s["context"], name="clone")
        y, s["mask1"] = b.dropout(_linear(b, s["moved"], s["w_o"], tokens, width, width))
        s["mid"] = x = b.elementwise(y, x)
        s["ln2"] = b.layer_norm(x, width)
        s["up"] = _linear(b, s["ln2"], s["w_up"], tokens, 4 * width, width)
        half = b.elementwise(s["up"], name="mul")
        inner_ = b.elementwise(b.elementwise(s["up"], name="pow"), name="mul")
        inner_ = b.elementwise(b.elementwise(s["up"], inner_), name="mul")
        s["tanh"] = b.elementwise(inner_, name="tanh", special=1)
        s["half"] = half
        s["act"] = b.elementwise(half, b.elementwise(s["tanh"], name="add"), name="mul")
        y, s["mask2"] = b.dropout(_linear(b, s["act"], s["w_down"], tokens, width, 4 * width))
        x = b.elementwise(y, x)
    b.phase = Phase.BACKWARD
    b.block, b.instance, b.module = -1, -1, ""
    dx = b.elementwise(x, name="loss_backward")
    updates: list[tuple[int, int, int]] = []
    for layer in reversed(range(layers)):
        b.block, b.instance, b.module = 0, layer, f"h.{layer}"
        s = saved[layer]
        dy = b.elementwise(dx, s["mask2"], name="native_dropout_backward")
        da = _linear_backward(b, dy, s["act"], s["w_down"], tokens, width, 4 * width, updates, layer)
        dhalf = b.elementwise(da, s["tanh"], name="mul")
        dtanh = b.elementwise(b.elementwise(da, s["half"], name="mul"), s["tanh"], name="tanh_backward")
        scaled = b.elementwise(dtanh, name="mul")
        cubic = b.elementwise(b.elementwise(scaled, name="mul"), s["up"], name="mul")
        dup = b.elementwise(b.elementwise(b.elementwise(dhalf, name="mul"), scaled), cubic)
        dn = _linear_backward(b, dup, s["ln2"], s["w_up"], tokens, 4 * width, width, updates, layer)
        dx = b.elementwise(_norm_backward(b, dn, s["mid"], tokens, width), dx)
        dy = b.elementwise(dx, s["mask1"], name="native_dropout_backward")
        dm = _linear_backward(b, dy, s["moved"], s["w_o"], tokens, width, width, updates, layer)
        dm = b.elementwise(dm, name="clone")
        parts = _attention(b, (dm, s["qkv"], s["context"]), tokens, width, heads, batch, outputs=3)
        dqkv = b.op("cat", OperatorKind.MOVEMENT, parts, (3 * tokens * width,), work=_moved(3 * tokens * width))[0]
        dn = _linear_backward(b, dqkv, s["ln1"], s["w_qkv"], tokens, 3 * width, width, updates, layer)
        dx = b.elementwise(_norm_backward(b, dn, s["x"], tokens, width), dx)
    b.phase = Phase.OPTIMIZER
    for layer, parameter, gradient in updates:
        b.instance = layer
        _adamw(b, parameter, gradient)
    return b


def _moved(elements: int) -> Work:
    return Work(simple_ops=elements, vector_elements=2 * elements)


def _linear(b: GraphBuilder, x: int, weight: int, m: int, n: int, k: int) -> int:
    return b.elementwise(b.matmul(x, weight, m, n, k), name="add")


def _attention(
    b: GraphBuilder, reads: tuple[int, ...], tokens: int, width: int, heads: int, batch: int, outputs: int
) -> tuple[int, ...]:
    length, head_width = tokens // batch, width // heads
    one = Product(
        batch=batch * heads, m=length, n=length, k=head_width, a_elements=tokens * width, b_elements=tokens * width,
        c_elements=batch * heads * length * length, element_bytes=2,
    )  # fmt: skip
    work = Work(products=(one,) * (2 if outputs == 1 else 5), chained=True, special_ops=one.c_elements)
    return b.op("attention", OperatorKind.ATTENTION, reads, (tokens * width,) * outputs, work=work)


def _linear_backward(
    b: GraphBuilder,
    dy: int,
    x: int,
    weight: int,
    tokens: int,
    outer: int,
    inner: int,
    updates: list[tuple[int, int, int]],
    layer: int,
) -> int:
    dx = b.matmul(dy, weight, tokens, inner, outer, gradient_of="input")
    updates.append((layer, weight, b.matmul(dy, x, outer, inner, tokens, gradient_of="weight")))
    bias = b.parameter(outer, "bias")
    updates.append((layer, bias, b.reduction(dy, outer, role=TensorRole.GRADIENT)))
    return dx


def _norm_backward(b: GraphBuilder, dy: int, x: int, tokens: int, width: int) -> int:
    size = tokens * width
    work = Work(simple_ops=8 * size, vector_elements=3 * size, reduction_bytes=2 * 2 * width)
    return b.op("native_layer_norm_backward", OperatorKind.NORMALIZATION, (dy, x), (size, width, width), work=work)[0]


def _adamw(b: GraphBuilder, parameter: int, gradient: int) -> None:
    size = b.elements(parameter)
    name = b.tensors[parameter].name
    states = tuple(b.given(size, TensorRole.OPTIMIZER_STATE, name) for _ in range(2))
    work = Work(simple_ops=12 * size, special_ops=2 * size, vector_elements=7 * size)
    over = (parameter, *states)
    b.op("_fused_adamw_", OperatorKind.OPTIMIZER, (parameter, gradient, *states), work=work, over=over)
