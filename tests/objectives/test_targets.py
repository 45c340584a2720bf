"""DINO, DeepCluster and iBOT against plain loops, closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from fungi_hf import DINO, IBOT, DeepCluster, FungiConfig
from fungi_hf.errors import ConfigError, InputError, NotFittedError, ShapeError, StateError
from fungi_hf.objectives import make_objective
from fungi_hf.objectives.deepcluster import assigned
from fungi_hf.testing import check_objective

WIDTH = 8


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(spec, *, fitted=True):
    objective = make_objective(spec, width=WIDTH, seed=0)
    if fitted and spec.needs_fit:
        objective.fit(draw(20, 2, WIDTH, seed=9))
    return objective


SPECS = {
    "dino": DINO(n_views=5, n_global=2, latent_dim=7),
    "deepcluster": DeepCluster(n_views=4, prototypes=(6, 4, 5), latent_dim=3),
    "ibot": IBOT(slots=3, latent_dim=7),
}


def gradient(objective, E):
    leaf = E.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(objective.loss(leaf).sum(), leaf)
    return grad


def softmax(logits):
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def cross_entropy(target, logits):
    return -sum(t * math.log(p) for t, p in zip(target, softmax(logits), strict=True))


def logits_of(head, e, temperature):
    length = math.sqrt(sum(x * x for x in e))
    rows, shift = head.weight.tolist(), head.bias.tolist()
    return [
        (sum(h * x / length for h, x in zip(row, e, strict=True)) + b) / temperature
        for row, b in zip(rows, shift, strict=True)
    ]


def dino_by_loop(objective, sample):
    heads = objective.heads
    loss = 0.0
    for g in range(2):
        target = softmax(logits_of(heads._teacher, sample[g], 0.07))
        for view in sample:
            loss += cross_entropy(target, logits_of(heads._student, view, 0.1))
    return loss


def ibot_by_loop(objective, sample):
    heads, half = objective.heads, len(sample) // 2
    terms = [
        cross_entropy(
            softmax(logits_of(heads._teacher, plain, 0.07)), logits_of(heads._student, masked, 0.1)
        )
        for masked, plain in zip(sample[:half], sample[half:], strict=True)
    ]
    return terms[0] + sum(terms[1:]) / (half - 1)


def deepcluster_by_loop(objective, sample):
    rows = objective.weight.tolist()
    views = []
    for e in sample:
        x = [sum(w * y for w, y in zip(row, e, strict=True)) for row in rows]
        length = math.sqrt(sum(y * y for y in x))
        views.append([y / length for y in x])
    terms = []
    for h, centroids in enumerate(objective.centroids):
        scores = [
            [sum(c * y for c, y in zip(row, x, strict=True)) for row in centroids.tolist()]
            for x in views
        ]
        own = scores[h % 2]
        cluster = own.index(max(own))
        for of_view in scores:
            terms.append(-math.log(softmax([s / 0.1 for s in of_view])[cluster]))
    return sum(terms) / len(terms)


LOOPS = {"dino": dino_by_loop, "ibot": ibot_by_loop, "deepcluster": deepcluster_by_loop}


@pytest.mark.parametrize("kind", SPECS)
def test_loss_equals_plain_python(kind) -> None:
    objective = made(SPECS[kind])
    E = draw(3, objective.n_views, WIDTH)
    expected = [LOOPS[kind](objective, sample) for sample in E.tolist()]
    assert objective.loss(E).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", SPECS)
def test_gradient_equals_finite_differences(kind) -> None:
    objective = made(SPECS[kind])
    if kind != "deepcluster":  # a detached teacher: the loss with targets held
        held = objective.heads.targets(draw(2, objective.n_views, WIDTH))
        objective.heads.targets = lambda e: (
            held[:, -e.shape[1] :] if kind == "ibot" else held[:, :2]
        )
    E, direction = draw(2, objective.n_views, WIDTH), draw(2, objective.n_views, WIDTH, seed=5)
    step = 1e-5
    up, down = objective.loss(E + step * direction), objective.loss(E - step * direction)
    slope = (gradient(objective, E) * direction).sum((1, 2))
    assert ((up - down) / (2 * step)).tolist() == pytest.approx(slope.tolist(), rel=1e-7)


@pytest.mark.parametrize("kind", SPECS)
def test_samples_do_not_interact(kind) -> None:
    spec = SPECS[kind]
    check_objective(lambda width, seed: make_objective(spec, width=width, seed=seed), width=WIDTH)


def test_the_teacher_of_dino_has_no_gradient_but_its_views_are_students_too() -> None:
    objective = made(DINO(n_views=3, n_global=2, latent_dim=5))
    E = draw(1, 3, WIDTH)
    grad = gradient(objective, E)
    assert (grad.norm(dim=-1) > 0).all()
    frozen = objective.heads.targets(E)
    objective.heads.targets = lambda _: frozen[:, :2]
    assert torch.equal(gradient(objective, E), grad)


def test_pairs_of_a_view_with_itself_count() -> None:
    objective = made(DINO(n_views=3, n_global=2, latent_dim=5))
    E = draw(1, 3, WIDTH)
    leaf = E.clone().requires_grad_(True)
    targets, predictions = objective.heads.targets(leaf[:, :2]), objective.heads.predictions(leaf)
    own = -sum((targets[:, g] * predictions[:, g]).sum() for g in range(2))
    (without,) = torch.autograd.grad(objective.loss(leaf).sum() - own, leaf)
    grad = gradient(objective, E)
    assert (grad - without).norm() > 0.05 * grad.norm()


def test_heads_may_be_shared() -> None:
    two, one = made(SPECS["dino"]), made(DINO(n_views=5, latent_dim=7, shared_heads=True))
    assert one.heads._teacher is one.heads._student
    assert torch.equal(one.heads._student.weight, two.heads._student.weight)
    assert not torch.equal(two.heads._teacher.weight, two.heads._student.weight)
    assert one.digest() != two.digest()


def test_dino_does_not_see_the_length_of_an_embedding() -> None:
    objective = made(SPECS["dino"])
    E = draw(2, 5, WIDTH)
    assert torch.allclose(objective.loss(7 * E), objective.loss(E), rtol=1e-12)


def test_dino_by_numbers() -> None:
    """Two equal views (1, 0), heads that double it, one global view: two equal terms."""
    objective = make_objective(
        DINO(n_views=2, n_global=1, latent_dim=2, temperature=1.0, teacher_temperature=2.0),
        width=2,
        seed=0,
    )
    for head in (objective.heads._student, objective.heads._teacher):
        head.weight = 2 * torch.eye(2, dtype=torch.float64)
        head.bias = torch.zeros(2, dtype=torch.float64)
    t, s = math.e / (math.e + 1), math.e**2 / (math.e**2 + 1)  # of the first latent
    expected = -2 * (t * math.log(s) + (1 - t) * math.log(1 - s))
    loss = objective.loss(torch.tensor([[[5.0, 0.0], [0.1, 0.0]]], dtype=torch.float64))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_lengths_of_centroids_decide_targets() -> None:
    """A centroid made longer takes a sample over; one that was normalised could not."""
    objective = make_objective(
        DeepCluster(n_views=2, prototypes=(2,), latent_dim=2), width=2, seed=0
    )
    objective.weight = torch.eye(2, dtype=torch.float64)
    E = torch.tensor([[[1.0, 0.8], [0.3, 1.0]]], dtype=torch.float64)
    scores = []
    for length in (1.0, 2.0):
        objective.centroids = [torch.diag(torch.tensor([1.0, length], dtype=torch.float64))]
        x = objective.latents(E)[0]
        cluster = int(assigned(x[:1], objective.centroids[0])[0])
        scores.append(cluster)
        logits = x @ objective.centroids[0].T / 0.1
        expected = -logits.log_softmax(-1)[:, cluster].mean()
        assert objective.loss(E).item() == pytest.approx(float(expected), rel=1e-12)
    assert scores == [0, 1]


def test_ibot_of_a_plain_input_is_the_entropy_of_tempered_copies() -> None:
    """With equal heads and nothing masked: H(softmax(z / .07)) and a cross term, in closed form."""
    objective = made(IBOT(slots=1, latent_dim=4))
    objective.heads._student = objective.heads._teacher
    row = draw(1, 1, WIDTH)
    z = torch.tensor(logits_of(objective.heads._teacher, row[0, 0].tolist(), 1.0))
    t, s = (z / 0.07).softmax(-1), (z / 0.1).log_softmax(-1)
    assert objective.loss(row.expand(1, 4, WIDTH)).item() == pytest.approx(-2 * float(t @ s))


def test_deepcluster_by_numbers() -> None:
    """Two centroids on the axes, one view on each: ln(1 + e^10) for the other, ln(1 + e^-10)."""
    objective = make_objective(
        DeepCluster(n_views=2, prototypes=(2,), latent_dim=2), width=2, seed=0
    )
    objective.weight = torch.eye(2, dtype=torch.float64)
    objective.centroids = [torch.eye(2, dtype=torch.float64)]
    E = torch.tensor([[[3.0, 0.0], [0.0, 2.0]]], dtype=torch.float64)
    expected = (math.log1p(math.exp(-10)) + math.log1p(math.exp(10))) / 2
    assert objective.loss(E).item() == pytest.approx(expected, rel=1e-12)


def test_centroids_are_plain_means_of_their_members() -> None:
    objective = made(DeepCluster(n_views=2, prototypes=(4, 6), latent_dim=3, iterations=60))
    x = objective.latents(draw(20, 2, WIDTH, seed=9))
    for h, centroids in enumerate(objective.centroids):
        members = assigned(x[:, h], centroids)
        for k in members.unique():
            mean = x[members == k, h].mean(0)
            assert torch.allclose(centroids[k], mean, atol=1e-12)
            assert mean.norm() < 1 - 1e-4  # normalising them would be another objective
    assert torch.allclose(objective.weight.norm(dim=-1), torch.ones(3, dtype=torch.float64))


def test_k_means_equals_a_plain_loop() -> None:
    objective = made(DeepCluster(n_views=2, prototypes=(5,), latent_dim=3, iterations=3))
    once = made(DeepCluster(n_views=2, prototypes=(5,), latent_dim=3))
    x = objective.latents(draw(20, 2, WIDTH, seed=9))[:, 0].tolist()
    once._iterations = 0  # leaves the first draw
    centroids = once._clustered(torch.tensor(x, dtype=torch.float64), 0, 5).tolist()
    assert all(min(math.dist(c, row) for row in x) < 1e-12 for c in centroids)
    for _ in range(3):
        best = []
        for row in x:
            scores = [sum(a * b for a, b in zip(row, c, strict=True)) for c in centroids]
            best.append(scores.index(max(scores)))
        for k in range(5):
            of_k = [row for row, own in zip(x, best, strict=True) if own == k]
            if of_k:
                centroids[k] = [sum(axis) / len(of_k) for axis in zip(*of_k, strict=True)]
    found = objective.centroids[0]
    assert torch.allclose(found, torch.tensor(centroids, dtype=torch.float64), atol=1e-12)


def test_an_empty_cluster_keeps_its_centroid() -> None:
    objective = made(DeepCluster(n_views=2, prototypes=(3,), latent_dim=2), fitted=False)
    corners = normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1]]).double(), dim=-1)
    x = corners[torch.tensor([0] * 6 + [1] * 6)]
    objective._iterations = 0
    first = objective._clustered(x, 0, 3)  # two of three are equal: the second gets no member
    twin = next(k for k in range(1, 3) if any(torch.equal(first[k], first[j]) for j in range(k)))
    objective._iterations = 5
    assert torch.equal(objective._clustered(x, 0, 3)[twin], first[twin])


def test_what_deepcluster_refuses() -> None:
    objective = made(SPECS["deepcluster"], fitted=False)
    with pytest.raises(NotFittedError, match="no centroids; call fit"):
        objective.loss(draw(1, 4, WIDTH))
    with pytest.raises(InputError, match="6 clusters among 5 distinct training inputs"):
        objective.fit(draw(5, 2, WIDTH))
    with pytest.raises(ShapeError, match=r"clusters latents \[N, 2, 3\]; got \[5, 3\]"):
        objective.fit_latents(draw(5, 3))
    with pytest.raises(StateError, match="the stored state has"):
        objective.load_state({"centroids0": draw(6, 3)})
    fitted = made(SPECS["deepcluster"])
    objective.load_state(fitted.state())
    E = draw(2, 4, WIDTH)
    assert torch.equal(objective.loss(E), fitted.loss(E))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DINO(n_views=1), "n_views must be >= 2; got 1"),
        (lambda: DINO(n_global=13), "DINO.n_global must be an integer from 1 to 12; got 13"),
        (lambda: DINO(shared_heads=1), "DINO.shared_heads must be True or False; got 1"),
        (lambda: DINO(teacher_temperature=0), "teacher_temperature must be a number > 0"),
        (lambda: DeepCluster(n_views=1), "n_views must be >= 2; got 1"),
        (lambda: DeepCluster(prototypes=()), "must be a tuple of numbers of clusters; got ()"),
        (lambda: DeepCluster(prototypes=300), "must be a tuple of numbers of clusters; got 300"),
        (lambda: DeepCluster(prototypes=(3, 1)), "prototypes[1] must be an integer >= 2; got 1"),
        (lambda: DeepCluster(prototypes=(30,), n_fit=10), "n_fit must be None or an integer >= 30"),
        (lambda: IBOT(slots=0), "IBOT.slots must be an integer >= 1; got 0"),
        (lambda: IBOT(slots=3, n_views=5), "2 (1 + slots), 8 for slots=3; got 5"),
        (lambda: IBOT(mask_ratio=1.5), "IBOT.mask_ratio must be None or a number > 0 and <= 1"),
        (lambda: IBOT(views="box"), "views must be 'masked_tokens' or 'auto'; got 'box'"),
        (lambda: IBOT(late_views=1), "IBOT reads tokens, which late views drop"),
        (
            lambda: FungiConfig(objectives=("ibot", DINO(late_views=1))),
            "late views (dino) and tokens (ibot) are not offered in one extractor",
        ),
    ],
)
def test_wrong_options_are_named(make, message) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", SPECS)
def test_specs_survive_json_and_cards_name_them(kind) -> None:
    config = FungiConfig(objectives=("kl", SPECS[kind]))
    assert FungiConfig.from_json(config.to_json()) == config
    assert "{" not in config.objectives[1].title("layer")
    assert FungiConfig(objectives=(kind,)).objectives[0].kind == kind
