"""Label losses in pixels and by likelihood: densities that are densities, and sigma that means something."""

import math

import pytest
import torch

from distilpose.losses import ResidualFlow, residual_likelihood_loss
from distilpose.losses.keypoint import PIXEL_BALANCE, keypoint_loss, pixel_keypoint_loss


def bent_flow() -> ResidualFlow:
    """A flow that is far from its start."""
    torch.manual_seed(4)
    flow = ResidualFlow()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return flow


def test_pixel_errors_weigh_alike_along_x_and_y() -> None:
    target, weight = torch.full((1, 1, 2), 0.5), torch.ones(1, 1)
    size_hw = (256, 192)
    along_x = pixel_keypoint_loss(target + torch.tensor([7 / 192, 0]), target, weight, size_hw)
    along_y = pixel_keypoint_loss(target + torch.tensor([0, 7 / 256]), target, weight, size_hw)
    assert along_x.item() == pytest.approx(along_y.item(), rel=1e-5)
    # |7| - 1/2 px in one of two coordinates
    assert along_x.item() == pytest.approx(6.5 / 2 * PIXEL_BALANCE / math.sqrt(256 * 192), rel=1e-4)
    small = pixel_keypoint_loss(target + torch.tensor([0.2 / 192, 0.4 / 256]), target, weight, size_hw)
    expected = (0.2**2 / 2 + 0.4**2 / 2) / 2 * PIXEL_BALANCE / math.sqrt(256 * 192)
    assert small.item() == pytest.approx(expected, rel=1e-3)


def test_pixel_loss_is_balanced_with_the_published_one() -> None:
    target, weight = torch.full((1, 1, 2), 0.5), torch.ones(1, 1)
    for size_hw in ((256, 192), (128, 96)):
        share = math.sqrt(size_hw[0] * size_hw[1])
        errors = torch.tensor([share / size_hw[1], share / size_hw[0]])
        point = (target + PIXEL_BALANCE * errors).requires_grad_()
        pulls = [
            torch.autograd.grad(loss, point)[0].norm().item()
            for loss in (pixel_keypoint_loss(point, target, weight, size_hw), keypoint_loss(point, target, weight))
        ]
        assert pulls[0] == pytest.approx(pulls[1], rel=0.15)


@pytest.mark.parametrize("make", [ResidualFlow, bent_flow])
def test_the_flow_is_a_density(make) -> None:
    flow, step = make(), 0.1
    ticks = torch.arange(-15, 15, step) + step / 2
    grid = torch.cartesian_prod(ticks, ticks)
    with torch.no_grad():
        assert flow(grid).exp().sum().item() * step**2 == pytest.approx(1, abs=1e-2)


def test_the_flow_s_density_is_the_change_of_variables() -> None:
    flow = bent_flow()
    for point in torch.randn(5, 2, generator=torch.Generator().manual_seed(0)):
        jacobian = torch.autograd.functional.jacobian(lambda p: flow.normalize(p)[0], point)
        base = flow.normalize(point)[0]
        expected = jacobian.det().abs().log() - base.square().sum() / 2 - math.log(2 * math.pi)
        assert flow(point).item() == pytest.approx(expected.item(), abs=1e-4)


def test_a_fresh_flow_gives_the_hand_computed_loss() -> None:
    error, sigma = torch.tensor([[[0.03, -0.01]]]), torch.tensor([[[0.02, 0.05]]])
    target = torch.full((1, 1, 2), 0.4)
    loss = residual_likelihood_loss(target + error, sigma, target, torch.ones(1, 1), ResidualFlow())
    laplace = math.log(2 * 0.02) + 1.5 + math.log(2 * 0.05) + 0.2
    normal = math.log(0.02) + math.log(0.05) + math.log(2 * math.pi) + (1.5**2 + 0.2**2) / 2
    assert loss.item() == pytest.approx((laplace + normal) / 2, rel=1e-4)


def test_likelihood_passes_gradcheck() -> None:
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.double)

    xy, sigma, target = draw(2, 3, 2).requires_grad_(), (draw(2, 3, 2) + 0.3).requires_grad_(), draw(2, 3, 2)
    weight = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.double)
    flow = bent_flow()

    def loss(xy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return residual_likelihood_loss(xy, sigma, target, weight, flow)

    assert torch.autograd.gradcheck(loss, (xy, sigma), eps=1e-3, atol=2e-2, rtol=2e-2)  # the flow is float32


def test_unlabeled_keypoints_teach_nothing() -> None:
    xy, sigma = torch.rand(2, 3, 2, requires_grad=True), torch.full((2, 3, 2), 0.1, requires_grad=True)
    target, weight, flow = torch.rand(2, 3, 2), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), bent_flow()
    residual_likelihood_loss(xy, sigma, target, weight, flow).backward()
    for gradient in (xy.grad, sigma.grad):
        assert (gradient.abs().sum(-1)[weight == 0] == 0).all()
        assert (gradient.abs().sum(-1)[weight == 1] > 0).all()
    flow.zero_grad()
    residual_likelihood_loss(xy, sigma, target, torch.zeros(2, 3), flow).backward()
    assert all((parameter.grad == 0).all() for parameter in flow.parameters())


@pytest.mark.slow
def test_flow_and_sigma_learn_the_errors_that_they_see() -> None:
    """Labels scattered by a Laplace law of known scale: the loss falls, and sigma becomes that scale."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.02, 0.08])
    uniform = torch.rand(1024, 1, 2, generator=generator) - 0.5
    errors = -scale * uniform.sign() * torch.log1p(-2 * uniform.abs())
    torch.manual_seed(0)
    flow, log_sigma = ResidualFlow(), torch.full((2,), math.log(0.04), requires_grad=True)
    adam = torch.optim.Adam([{"params": flow.parameters(), "lr": 2e-3}, {"params": [log_sigma], "lr": 2e-2}])
    losses = []
    for _ in range(300):
        sigma = log_sigma.exp().expand_as(errors)
        loss = residual_likelihood_loss(errors, sigma, torch.zeros_like(errors), torch.ones(1024, 1), flow)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    # The best that two densities can do: each equal to the law, whose entropy is 1 + ln(2 scale) a coordinate.
    entropy = (1 + (2 * scale).log()).mean().item()
    assert losses[0] > losses[100] > losses[-1]
    assert 2 * entropy - 0.05 < losses[-1] < 2 * entropy + 0.1
    assert log_sigma.exp().tolist() == pytest.approx(scale.tolist(), rel=0.15)


def test_the_flow_stays_in_float32_under_autocast() -> None:
    flow, points = bent_flow(), torch.randn(64, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(flow(points.bfloat16().float()), flow(points.bfloat16()))
        low = flow(points)
    assert low.dtype == torch.float32
    assert torch.equal(low, flow(points))
