"""The columns of the network alone beside a corrected answer are the network's, not the corrected numbers again."""

from __future__ import annotations

from pathlib import Path

import pytest

from sciinf import Flow, Recipe, build_posterior, load_simulator, query, simulate, train

X_O = [2.0, 4.0, 3.5, 1.0, -2.0]


def test_amortised_columns_are_those_of_the_network_alone(root: Path, tmp_path: Path) -> None:
    simulator = load_simulator(root / "simulators" / "linear_gaussian.py")
    store = simulate(simulator, tmp_path / "store", 500, progress=False)
    flow = Flow(simulator.prior, simulator.observables)
    fit = train(flow, store, tmp_path / "fit", recipe=Recipe(epochs=2))
    corrected = query(build_posterior(fit, simulator, ess=200), {"x": X_O})
    alone = query(build_posterior(fit), {"x": X_O})
    assert set(corrected.amortised) == set(simulator.prior.names)
    for name, estimate in corrected.amortised.items():
        # Ten thousand draws each: 1.4 % of sd between two means; 10 % would be seven of these.
        assert estimate.mean == pytest.approx(alone.parameters[name].mean, abs=0.1 * alone.parameters[name].sd)
        assert estimate.sd == pytest.approx(alone.parameters[name].sd, rel=0.1)
    # Two epochs leave a posterior far too wide, so that numbers of the corrected one would be seen.
    assert any(corrected.parameters[name].sd < 0.7 * estimate.sd for name, estimate in corrected.amortised.items())
