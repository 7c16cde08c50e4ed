"""Laws of tokens: what they are drawn from, whatever was learned."""

from __future__ import annotations

import pytest
import torch

from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import JointTokens, MixtureTokens, four_steps
from sciinf.networks.diffusion.solver import Exponential

PLACES = torch.arange(2)[:, None] / 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def built(law, seed=0):
    return law.build(TokenTransformer(8, 1, heads=1), (3, 4, 1), PLACES, edges=False, seed=seed)


def test_draws_are_right_where_what_is_given_tells_them_to_be_far_from_0(monkeypatch):
    """Tokens of mean 15 and sd 0.1, as in a front: starting from noise about 0 would leave them 0.7 sd off."""
    law = built(JointTokens())

    def denoise(y, level):
        return (15 * level**2 + 0.01 * y) / (level**2 + 0.01)

    monkeypatch.setattr(law, "denoiser", lambda given, condition: denoise)
    drawn = law.draw(torch.zeros(2_000, 2, 4), torch.zeros(2_000, 1), generator=generator())
    assert float(drawn.mean()) == pytest.approx(15.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.1, rel=0.15)


def test_a_mixture_draws_what_its_loss_is_the_density_of():
    """The loss of draws is the entropy per number: the same as of a histogram of many of them, to 0.03 nats."""
    law = built(MixtureTokens(3), seed=1)
    with torch.no_grad():
        law.network.out.bias.copy_(torch.randn(law.network.out.bias.shape, generator=generator(2)))
        given, condition = torch.zeros(50_000, 2, 4), torch.zeros(50_000, 1)
        drawn = law.draw(given, condition, generator=generator(1))
        loss = law.loss(drawn, given, condition, generator=generator()).mean()
        faulty = law.loss(1.5 * drawn, given, condition, generator=generator()).mean()  # draws of another law
    entropies = []
    for value in drawn.flatten(1).T:
        count, edges = torch.histogram(value, 200)
        share = count[count > 0] / len(value)
        entropies.append(-(share * (share / (edges[1] - edges[0])).log()).sum())
    entropy = float(torch.stack(entropies).mean())
    assert float(loss) == pytest.approx(entropy, abs=0.03)
    assert abs(float(faulty) - entropy) > 0.1


@pytest.mark.parametrize("kind", [JointTokens(), MixtureTokens(2)])
def test_conditions_and_what_is_given_are_seen(kind):
    law = built(kind)
    draw = generator(3)
    tokens, given, condition = (torch.randn(6, *shape, generator=draw) for shape in ((2, 3), (2, 4), (1,)))
    with torch.no_grad():
        law.network.out.weight.mul_(50)
        loss = law.loss(tokens, given, condition, generator=generator())
        for changed in ((tokens, given.flip(0), condition), (tokens, given, condition.flip(0))):
            assert not torch.allclose(law.loss(*changed, generator=generator()), loss, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "most"), [(JointTokens(), 0.02), (four_steps(), 0.05), (JointTokens(solver=Exponential(4, 2)), 0.1)]
)
def test_how_wide_steps_make_what_is_normal(kind, most):
    """With the exact denoiser of sd 1 and of less, sds are never too small, and by how much they are too large.

    100,000 draws tell an sd to 0.22 %; four of these are allowed.
    """
    schedule, noise = kind.diffusion.schedule, torch.randn(100_000, 1, generator=generator(3)).double()
    wide = []
    for sd in (0.3, 0.5, 0.7, 1.0):
        found = kind.solver.solve(
            lambda y, level, sd=sd: y * sd**2 / (sd**2 + level.reshape(-1, 1) ** 2),
            schedule.most * noise,
            schedule,
            generator=generator(),
        )
        wide.append(float(found.std() / noise.std()) / sd - 1)
    assert min(wide) > -0.01
    assert 0.4 * most < max(wide) < most


@pytest.mark.parametrize("kind", [JointTokens(), four_steps(), MixtureTokens(), MixtureTokens(2)])
def test_draws_are_a_function_of_noise(kind):
    law = built(kind)
    with torch.no_grad():
        noise, given, condition = (
            torch.randn(6, law.noise, generator=generator()),
            torch.ones(6, 2, 4),
            torch.ones(6, 1),
        )
        one, two = (law.from_noise(noise, given, condition) for _ in range(2))
        assert torch.equal(one, two)
        assert float((law.from_noise(noise.flip(0), given, condition) - one.flip(0)).abs().max()) < 1e-4
        assert float((one[0] - one[1]).abs().max()) > 0.01
        assert torch.equal(law.draw(given, condition, generator=generator()), one)
