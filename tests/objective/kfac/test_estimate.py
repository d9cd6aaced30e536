"""K-FAC against Fisher blocks that are summed sample by sample from Jacobians, and its running mean."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subsetopt.errors import ModelError
from subsetopt.objective import make_loss
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.objective.output_noise import output_noise
from subsetopt.seeding import make_generator
from tests.objective.kfac.kfac_nets import Recorder, built, corrected, dense, fitted, sample_gradients


def test_linear_blocks_of_one_sample_are_the_empirical_fisher():
    flat = built(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(1, 3, dtype=torch.float64), torch.tensor([1])
    gradient = sample_gradients(flat, x, y)[0]
    found = dense(fitted(flat, x, y, draw="empirical"))
    first = slice(0, 16)
    torch.testing.assert_close(found[first, first], torch.outer(gradient[first], gradient[first]))
    torch.testing.assert_close(found[16:, 16:], torch.outer(gradient[16:], gradient[16:]))
    assert found[:16, 16:].abs().max() == 0


def test_a_linear_block_has_the_eigenvectors_of_second_moments_and_the_eigenvalues_of_its_samples():
    flat = built(nn.Linear(3, 2))
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.arange(7) % 2
    gradients = sample_gradients(flat, x, y)
    a = torch.cat([x, torch.ones(7, 1, dtype=torch.float64)], 1)
    g = gradients[:, 6:]  # the gradient in the bias is that in the outputs
    found = fitted(flat, x, y, draw="empirical")
    v = torch.randn(8, dtype=torch.float64)
    matrix = torch.cat([v[:6].view(2, 3), v[6:, None]], 1)
    expected = corrected(a.T @ a / 7, g.T @ g / 7, torch.einsum("no,nd->nod", g, a), matrix)
    torch.testing.assert_close(found.product(v), torch.cat([expected[:, :3].reshape(-1), expected[:, 3]]))
    fisher = gradients.T @ gradients / 7
    assert float(dense(found).trace()) == pytest.approx(float(fisher.trace()))


@pytest.mark.parametrize(
    ("loss", "draw"),
    [("cross_entropy", "curvature"), ("cross_entropy", "labels"), ("mse", "curvature"), ("mse", "labels")],
)
def test_drawn_output_gradients_have_the_hessian_as_their_second_moment(loss, draw):
    outputs = torch.randn(1, 3, dtype=torch.float64)
    targets = torch.zeros(1, 3) if loss == "mse" else torch.tensor([0])
    many = output_noise(make_loss(loss), outputs.expand(40000, 3), targets, draw, make_generator(0, "u"))
    hessian = make_loss(loss).output_hessian(outputs, targets)
    expected = torch.cat([hessian(row[None]) for row in torch.eye(3, dtype=torch.float64)])
    torch.testing.assert_close(many.T @ many / 40000, expected, rtol=0.05, atol=0.01)
    torch.testing.assert_close(many.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0.02)


def test_factors_of_other_layers_are_refused_in_one_line():
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2
    one, two = built(nn.Linear(3, 2)), built(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(ModelError, match=r"^checkpoint: it has K-FAC factors of 1 layers, the model has 2; .*$"):
        Kfac(two, make_loss("cross_entropy")).load_state_dict(fitted(one, x, y).state_dict())


def test_running_mean_warms_up_and_state_goes_on_bit_for_bit():
    flat = built(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    draws = [(torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2) for _ in range(3)]
    w, generator = flat.initial(), make_generator(0, "g")
    kfac = Kfac(flat, make_loss("cross_entropy"), draw="empirical", memory=0.9)
    for x, y in draws[:2]:
        kfac.update(w, x, y, generator)
    single = [fitted(flat, x, y, draw="empirical").state_dict()["0.g.moment"] for x, y in draws[:2]]
    torch.testing.assert_close(kfac.state_dict()["0.g.moment"], (single[0] + single[1]) / 2)
    again = Kfac(flat, make_loss("cross_entropy"), draw="empirical", memory=0.9)
    again.load_state_dict({name: value.clone() for name, value in kfac.state_dict().items()})
    v = torch.randn(flat.size, dtype=torch.float64)
    for each in (kfac, again):
        each.update(w, *draws[2], generator)
    assert torch.equal(kfac.apply(v, 0.01), again.apply(v, 0.01))


def test_eigenvalues_in_a_basis_that_stays_are_averaged():
    flat = built(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    draws = [(torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2) for _ in range(2)]
    kfac = Kfac(flat, make_loss("cross_entropy"), draw="empirical", memory=0.0, drift=1e9)
    alone = []
    for x, y in draws:
        kfac.update(flat.initial(), x, y, make_generator(0, "g"))
        alone.append(dense(kfac))
    kfac = Kfac(flat, make_loss("cross_entropy"), draw="empirical", memory=0.9, drift=1e9)
    for x, y in draws:
        kfac.update(flat.initial(), x, y, make_generator(0, "g"))
    torch.testing.assert_close(dense(kfac), (alone[0] + alone[1]) / 2)
    assert not torch.allclose(alone[0], alone[1])


def test_a_factor_is_decomposed_again_only_when_its_moment_has_drifted():
    flat = built(nn.Linear(30, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = torch.randn(200, 30, dtype=torch.float64), torch.arange(200) % 3
    kfac, meter, generator = Kfac(flat, make_loss("cross_entropy"), memory=0.0), Recorder(), make_generator(0, "g")
    w = flat.initial()
    kfac.update(w, x, y, generator)
    before = kfac.state_dict()
    w[:150] *= 4.0  # other activations, the same inputs
    kfac.update(w, x, y, generator, meter)
    after = kfac.state_dict()
    assert torch.equal(before["0.a.basis"], after["0.a.basis"])
    assert not torch.equal(before["1.a.basis"], after["1.a.basis"])
    rotated = after["1.a.basis"].T @ after["1.a.moment"] @ after["1.a.basis"]
    torch.testing.assert_close(rotated, rotated.diagonal().diag(), rtol=0.0, atol=1e-9)


def test_small_drifts_add_up_to_a_new_decomposition():
    flat = built(nn.Linear(4, 2))
    x, y = torch.randn(50, 4, dtype=torch.float64), torch.arange(50) % 2
    kfac, generator = Kfac(flat, make_loss("cross_entropy"), memory=0.0, drift=0.1), make_generator(0, "g")
    bases = []
    for step in range(4):  # the second moment grows by 4 % each time: by 8 % after two, by 12 % after three
        kfac.update(flat.initial(), x * 1.04 ** (step / 2), y, generator)
        bases.append(kfac.state_dict()["0.a.decomposed"])
    assert [torch.equal(basis, bases[0]) for basis in bases] == [True, True, True, False]


def test_an_estimate_that_is_not_finite_changes_nothing():
    flat = built(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y, generator = torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2, make_generator(0, "g")
    kfac = Kfac(flat, make_loss("cross_entropy"))
    kfac.update(flat.initial(), x, y, generator)
    before = kfac.state_dict()
    kfac.update(flat.initial(), x * float("nan"), y, generator)
    assert all(torch.equal(value, before[name]) for name, value in kfac.state_dict().items())


def test_diagonals_of_a_checkpoint_of_an_earlier_version_are_found_among_those_of_all_parameters():
    """There every parameter had a place in the diagonal, zero where it has factors."""
    flat = built(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    kfac = fitted(flat, torch.randn(6, 4, dtype=flat.dtype), torch.arange(6) % 2)
    now = kfac.state_dict()
    assert len(now["diagonal"]) == 6, "the weight and bias of LayerNorm alone"
    whole = torch.zeros(flat.size, dtype=flat.dtype)
    whole[15:21] = now["diagonal"]
    earlier = {name: tensor for name, tensor in now.items() if name != "bounded"} | {"diagonal": whole}
    again, v = Kfac(flat, make_loss("cross_entropy")), torch.randn(flat.size, dtype=flat.dtype)
    again.load_state_dict(earlier)
    assert torch.equal(again.apply(v, 0.1), kfac.apply(v, 0.1)) and torch.equal(again.product(v), kfac.product(v))
    assert "bounded" not in again.state_dict(), "its sums go on as they were made"


def test_an_update_leaves_the_tensors_alone_that_were_given_away():
    """As a solver holds them that goes back when its budget ends in the midst of a step; of wide layers, too."""
    flat = built(nn.Linear(200, 3), nn.LayerNorm(3))
    x, y = torch.randn(6, 200, dtype=flat.dtype), torch.arange(6) % 3
    kfac = fitted(flat, x, y)
    held = kfac.state_dict()
    before = {name: tensor.clone() for name, tensor in held.items()}
    kfac.update(flat.initial(), 2 * x, y, make_generator(1, "draws"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in held.items())
    assert not torch.equal(kfac.state_dict()["0.a.moment"], before["0.a.moment"])
