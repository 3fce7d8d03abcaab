"""Graphs, tables, points, experts: gathers, scatters and sorts."""

# Calling an nn.Module is untyped.
# mypy: no-warn-return-any
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from .entry import training_step


class GraphNetwork(nn.Module):
    """Messages along edges, summed at the nodes by index_add; a second layer weighs them by a softmax per node."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(2 * width, width), nn.GRUCell(width, width)
        self.score, self.head = nn.Linear(2 * width, 1), nn.Linear(width, 3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        sent = F.relu(self.message(torch.cat((nodes[source], nodes[target]), -1)))
        nodes = self.update(torch.zeros_like(nodes).index_add(0, target, sent), nodes)
        pairs = torch.cat((nodes[source], nodes[target]), -1)
        score = F.leaky_relu(self.score(pairs).squeeze(-1))
        highest = score.new_full((nodes.shape[0],), -1e9).scatter_reduce(0, target, score.detach(), "amax")
        weight = torch.exp(score - highest[target])
        total = torch.zeros_like(highest).scatter_add(0, target, weight)
        weighed = nodes[source] * (weight / total[target]).unsqueeze(-1)
        return self.head(torch.zeros_like(nodes).index_add_(0, target, weighed))


@training_step("graph network: gather along edges, index_add and scatter_reduce at nodes, softmax per neighbourhood")
def graph_network() -> Any:
    return GraphNetwork(), (torch.randn(10, 8), torch.zeros(2, 24, dtype=torch.long))


class ClickModel(nn.Module):
    """Bags of ids with offsets and weights per id, feature crosses, and a factorisation machine."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(20, 8, mode="sum") for _ in range(3))
        self.bottom, self.top = nn.Linear(5, 8), nn.Linear(8 + 6, 1)
        self.linear = nn.EmbeddingBag(20, 1, mode="mean")

    def forward(self, dense: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        x = self.bottom(dense)
        rows = torch.stack([x, *(bag(ids, offsets, per_sample_weights=weights) for bag in self.bags)], 1)
        crosses = rows @ rows.transpose(1, 2)
        i, j = torch.tril_indices(4, 4, offset=-1, device=dense.device)
        return self.top(torch.cat((x, crosses[:, i, j]), 1)) + self.linear(ids, offsets)


@training_step(
    "click prediction: EmbeddingBag with offsets and weights, crosses of a triangle",
    options={"optimizer": "sgd"},
)
def embedding_bags() -> Any:
    inputs = (torch.randn(4, 5), torch.zeros(12, dtype=torch.long), torch.tensor([0, 3, 6, 9]), torch.ones(12))
    target = torch.zeros(4, 1)
    return ClickModel(), inputs, lambda logits: F.binary_cross_entropy_with_logits(logits, target)


class WordVectors(nn.Module):
    """Skip-gram with negative samples; only the rows that were looked up get a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.centre, self.context = nn.Embedding(900, 8, sparse=True), nn.Embedding(900, 8, sparse=True)

    def forward(self, words: Tensor, near: Tensor, far: Tensor) -> Tensor:
        centre = self.centre(words)
        good = F.logsigmoid((centre * self.context(near)).sum(-1))
        bad = F.logsigmoid(-torch.bmm(self.context(far), centre.unsqueeze(2)).squeeze(2)).sum(-1)
        return -(good + bad).mean()


@training_step(
    "word vectors: sparse gradients of embeddings, SparseAdam",
    options={"optimizer": torch.optim.SparseAdam},
    notes=("aten._coalesce: as if no two entries were equal",),
)
def sparse_gradients() -> Any:
    words = torch.zeros(6, dtype=torch.long)
    return WordVectors(), (words, words, torch.zeros(6, 4, dtype=torch.long))


class KernelHead(nn.Module):
    """Deep kernel learning: the likelihood of a Gaussian process over the features of a network."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 4))
        self.noise = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        features = self.features(x)
        kernel = torch.exp(-0.5 * (features.unsqueeze(0) - features.unsqueeze(1)).square().sum(-1))
        kernel = kernel + (F.softplus(self.noise) + 1e-3) * torch.eye(x.shape[0], device=x.device)
        factor = torch.linalg.cholesky(kernel)
        solved = torch.cholesky_solve(y.unsqueeze(1), factor).squeeze(1)
        return 0.5 * (y * solved).sum() + factor.diagonal().log().sum()


@training_step(
    "deep kernel learning: a Cholesky factor and its gradient in the loss",
    fallback={
        "aten.linalg_cholesky_ex": "a factorisation: no model of it",
        "aten.cholesky_solve": "a triangular solve: no model of it",
        "aten.linalg_solve_triangular": "a triangular solve: no model of it",
        "aten._linalg_check_errors": "asks whether the factorisation succeeded",
    },
)
def gaussian_process() -> Any:
    return KernelHead(), (torch.randn(12, 64), torch.randn(12))


class SortedExperts(nn.Module):
    """Mixture of experts of fixed capacity: top-k, sort by expert, a batched product, index_add back."""

    def __init__(self, width: int = 8, experts: int = 4, chosen: int = 2) -> None:
        super().__init__()
        self.chosen, self.experts = chosen, experts
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, 2 * width))
        self.down = nn.Parameter(torch.randn(experts, 2 * width, width))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tokens = x.flatten(0, 1)
        probability = self.router(tokens).softmax(-1)
        weight, expert = probability.topk(self.chosen, -1)
        order = expert.flatten().argsort(stable=True)
        source = order // self.chosen
        grouped = tokens[source].view(self.experts, -1, tokens.shape[-1])
        made = torch.bmm(F.gelu(torch.bmm(grouped, self.up)), self.down).flatten(0, 1)
        out = torch.zeros_like(tokens).index_add(0, source, made * weight.flatten()[order].unsqueeze(-1))
        load = F.one_hot(expert, self.experts).float().mean((0, 1))
        balance = self.experts * (load * probability.mean(0)).sum()
        return {"loss": F.mse_loss(out.view_as(x), x.detach()) + 0.01 * balance}


@training_step("experts of fixed capacity: top-k, sort, batched products, index_add, a balance loss")
def experts_of_fixed_capacity() -> Any:
    return SortedExperts(), torch.randn(2, 8, 8)


TOKENS, WIDTH, EXPERTS, CHOSEN = 16, 8, 4, 2


class LoopedExperts(nn.Module):
    """The loop over experts of many libraries: which tokens an expert gets is in the data."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.router(x).softmax(-1).topk(CHOSEN, -1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            token, place = torch.where(chosen == number)
            out.index_add_(0, token, expert(x[token]) * weight[token, place].unsqueeze(-1))
        return out


def looped_experts_flops() -> tuple[int, int]:
    """As announced: every expert gets all of the TOKENS·CHOSEN pairs. Input x needs no gradient."""
    router = 2 * TOKENS * WIDTH * EXPERTS
    experts = EXPERTS * 2 * TOKENS * CHOSEN * WIDTH * WIDTH
    return router + experts, router + experts


@training_step(
    "experts in a loop: torch.where decides at run time who gets what",
    notes=("aten.nonzero: as if all elements were selected",),
    count=looped_experts_flops,
    why_counted="sizes are in the data: capture takes the announced upper bound",
)
def experts_in_a_loop() -> Any:
    return LoopedExperts(), torch.randn(TOKENS, WIDTH)


class PointNet(nn.Module):
    """Nearest neighbours of points: all distances, top-k, gather, maximum over neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.edge, self.head = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, points: Tensor) -> Tensor:
        near = torch.cdist(points, points).topk(4, dim=-1, largest=False).indices
        index = near.flatten(1).unsqueeze(-1).expand(-1, -1, 3)
        neighbours = points.gather(1, index).view(*near.shape, 3)
        centre = points.unsqueeze(2).expand_as(neighbours)
        h = F.relu(self.edge(torch.cat((centre, neighbours - centre), -1))).amax(2)
        return self.head(h.max(1).values)


@training_step("point clouds: distances of all pairs, nearest neighbours, maximum over sets")
def point_cloud() -> Any:
    return PointNet(), torch.randn(2, 16, 3)


class RadianceField(nn.Module):
    """NeRF: positions as sines, a network with a skip connection, compositing along rays by a cumulative product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(24, 16), nn.Linear(16 + 24, 16), nn.Linear(16, 4)

    def forward(self, points: Tensor) -> Tensor:
        scales = 2.0 ** torch.arange(4, device=points.device, dtype=points.dtype)
        angles = (points.unsqueeze(-1) * scales).flatten(-2)
        code = torch.cat((angles.sin(), angles.cos()), -1)
        h = F.relu(self.first(code))
        h = self.last(F.relu(self.second(torch.cat((h, code), -1))))
        alpha = 1 - torch.exp(-F.relu(h[..., 3]))
        before = torch.cumprod(torch.cat((torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1] + 1e-10), 1), 1)
        return ((alpha * before).unsqueeze(-1) * torch.sigmoid(h[..., :3])).sum(1)


@training_step("radiance field: sines of positions, cumulative product along rays")
def radiance_field() -> Any:
    colours = torch.rand(4, 3)
    return RadianceField(), torch.rand(4, 8, 3), lambda found: F.mse_loss(found, colours)


class ActorCritic(nn.Module):
    """Clipped policy gradient with torch.distributions, and a value head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.critic = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 1)
        self.spread = nn.Parameter(torch.zeros(3))

    def forward(self, state: Tensor, action: Tensor, old: Tensor, reward: Tensor) -> Tensor:
        h = torch.tanh(self.body(state))
        policy = torch.distributions.Normal(self.actor(h), self.spread.exp())
        ratio = torch.exp(policy.log_prob(action).sum(-1) - old)
        value = self.critic(h).squeeze(-1)
        gain = (reward - value).detach()
        gain = (gain - gain.mean()) / (gain.std() + 1e-8)
        surrogate = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
        return -surrogate + 0.5 * F.mse_loss(value, reward) - 0.01 * policy.entropy().sum(-1).mean()


@training_step(
    "reinforcement learning: torch.distributions checks its arguments, a clipped ratio, advantages without gradient",
    notes=("truth value of aten._is_all_true taken as True",),
)
def actor_critic() -> Any:
    return ActorCritic(), (torch.randn(16, 6), torch.randn(16, 3), torch.zeros(16), torch.randn(16))


class HeatEquation(nn.Module):
    """A physics-informed network: derivatives of the output by the inputs, of first and second order, in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1))

    def forward(self, places: Tensor) -> Tensor:
        places = places.requires_grad_()
        u = self.layers(places)
        (slope,) = torch.autograd.grad(u, places, torch.ones_like(u), create_graph=True)
        (bend,) = torch.autograd.grad(slope[:, 0], places, torch.ones_like(slope[:, 0]), create_graph=True)
        return (slope[:, 1] - bend[:, 0]).square().mean()


@training_step("physics-informed network: second derivatives by the inputs in the loss")
def physics_informed() -> Any:
    return HeatEquation(), torch.rand(9, 2)


class Hypernetwork(nn.Module):
    """One network makes the weights of another; applied to every sample by torch.func.vmap and functional_call."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.shape = nn.Linear(4, 6 * 5), (5, 6)
        self.bilinear = nn.Bilinear(5, 4, 3)

    def forward(self, condition: Tensor, x: Tensor) -> Tensor:
        weights = self.maker(condition).view(-1, *self.shape)
        y = torch.func.vmap(lambda w, row: torch.tanh(w @ row))(weights, x)
        return self.bilinear(y, condition)


@training_step("hypernetwork: weights made by a network, torch.func.vmap over samples, a bilinear layer")
def hypernetwork() -> Any:
    return Hypernetwork(), (torch.randn(3, 4), torch.randn(3, 6))
