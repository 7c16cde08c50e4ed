"""Fits on disk: rebuilt to the bit, and refused where they are damaged, too new or not trusted."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import distributions as td

from sciinf.core import Estimator, Observable, Prior, load_fit, save_fit
from sciinf.core.files import write_json
from sciinf.core.fit import SCHEMA, campaign_of
from sciinf.networks.flows.zuko_flows import MAF
from sciinf.networks.summaries.vector import MLP
from sciinf.training.estimators.flow import Flow

PRIOR = Prior(a=(td.Uniform(0.0, 2.0), "m"), b=td.LogNormal(0.0, 0.5))
OBSERVABLES = {"y": Observable((3,), "s", ("time",)), "n": Observable((), "", (), "int64")}
SIMULATOR = {"name": "toy", "source": "ab"}
RECORD = {"seed": 4, "versions": {"sciinf": "9.9"}, "history": [{"epoch": 0, "train_loss": float("nan")}]}


def flow():
    return Flow(PRIOR, OBSERVABLES, summary={"y": MLP(4, (5,))}, flow=MAF(2, (8,)), seed=7)


@pytest.fixture
def folder(tmp_path):
    save_fit(tmp_path / "fit", flow(), simulator=SIMULATOR, record=RECORD)
    return tmp_path / "fit"


def edit(folder, **changes):
    file = folder / "fit.json"
    data = {**json.loads(file.read_text()), **changes}
    write_json(file, {k: v for k, v in data.items() if v is not None})


def test_comes_back_to_the_bit(folder):
    saved, found = flow(), load_fit(folder)
    assert sorted(f.name for f in folder.iterdir()) == ["fit.json", "model.safetensors"]
    assert found.estimator.state_dict().keys() == saved.state_dict().keys()
    assert all(torch.equal(v, found.estimator.state_dict()[k]) for k, v in saved.state_dict().items())
    assert found.estimator.prior.to_json() == PRIOR.to_json()
    assert dict(found.estimator.observables) == OBSERVABLES
    assert list(found.estimator.observables) == list(OBSERVABLES)
    assert not found.estimator.training
    assert (found.simulator, found.folder) == (SIMULATOR, folder)
    assert found.record["seed"] == 4
    assert found.record["history"] == [{"epoch": 0, "train_loss": None}]
    x = {"y": torch.ones(2, 3), "n": torch.tensor([3, 4])}
    theta = PRIOR.sample(2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(saved.eval().condition(x).log_prob(theta), found.estimator.condition(x).log_prob(theta))


def test_digest_is_of_weights_and_construction(tmp_path):
    first = save_fit(tmp_path / "a", flow(), simulator=SIMULATOR, record={})
    again = save_fit(tmp_path / "b", flow(), simulator=SIMULATOR, record={"seed": 5})
    moved = flow()
    with torch.no_grad():
        next(iter(moved.parameters())).add_(1e-7)
    assert first.digest == again.digest == load_fit(tmp_path / "a").digest
    assert save_fit(tmp_path / "c", moved, simulator=SIMULATOR, record={}).digest != first.digest


def test_loading_leaves_the_global_random_state_alone(folder):
    before = torch.get_rng_state()
    load_fit(folder)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "meta"])
def test_goes_to_the_device_asked_for(folder, device):
    estimator = load_fit(folder, device=device).estimator
    assert {t.device.type for t in estimator.state_dict().values()} == {torch.device(device).type}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trained_on_one_device_and_loaded_on_another(tmp_path):
    save_fit(tmp_path, flow().to("cuda"), simulator=SIMULATOR, record={})
    assert load_fit(tmp_path).estimator.z_mean.device.type == "cpu"
    assert load_fit(tmp_path, device="cuda").estimator.z_mean.device.type == "cuda"


def test_no_fit_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished fit"):
        load_fit(tmp_path)


@pytest.mark.parametrize(("file", "advice"), [("member_0/fit.json", "an ensemble"), ("sequential.json", "load_seq")])
def test_a_folder_of_several_fits_is_told_from_one_without(tmp_path, file, advice):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}")
    with pytest.raises(FileNotFoundError, match=f"holds no finished fit .*{advice}"):
        load_fit(tmp_path)


def test_a_newer_format_is_refused_with_the_version_that_wrote_it(folder):
    edit(folder, schema=SCHEMA + 1)
    with pytest.raises(ValueError, match=rf"format {SCHEMA + 1}, written by sciinf 9\.9; .* up to {SCHEMA}: update"):
        load_fit(folder)


@pytest.mark.parametrize("content", ["[]", "{}", "3", '{"schema": 1}', "not json"])
def test_other_files_are_refused(folder, content):
    (folder / "fit.json").write_text(content)
    with pytest.raises(ValueError, match=r"fit\.json"):
        load_fit(folder)


def test_one_flipped_bit_in_the_weights_is_noticed(folder):
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match="damaged"):
        load_fit(folder)


def test_missing_weights_and_another_construction_are_noticed(folder):
    data = json.loads((folder / "fit.json").read_text())
    data["estimator"]["arguments"]["flow"]["arguments"]["transforms"] = 3
    edit(folder, estimator=data["estimator"])
    with pytest.raises(ValueError, match="damaged"):
        load_fit(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="missing"):
        load_fit(folder)


SOURCE = """
from sciinf.training.estimators.flow import Flow
from sciinf.core import Estimator
class Mine(Estimator):
    def __init__(self, prior, observables):
        super().__init__()
        self.prior, self.observables, self.inner = prior, observables, Flow(prior, observables)
    def standardise(self, batches): self.inner.standardise(batches)
    def loss(self, batch, *, generator): return self.inner.loss(batch, generator=generator)
    def condition(self, x): return self.inner.condition(x)
    def features(self, x): return self.inner.features(x)
"""


@pytest.fixture
def mine(monkeypatch, tmp_path: Path) -> type[Estimator]:
    """An estimator that somebody keeps in a module of their own."""
    (tmp_path / "my_estimators_of_a_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "my_estimators_of_a_test", types.ModuleType("placeholder"))
    monkeypatch.delitem(sys.modules, "my_estimators_of_a_test")
    import importlib

    return importlib.import_module("my_estimators_of_a_test").Mine


def test_a_class_outside_sciinf_needs_trust(mine, tmp_path):
    save_fit(tmp_path / "fit", mine(PRIOR, OBSERVABLES), simulator=SIMULATOR, record={})
    with pytest.raises(ValueError, match=r"outside sciinf; .*trust=\('my_estimators_of_a_test',\)"):
        load_fit(tmp_path / "fit")
    with pytest.raises(ValueError, match="outside sciinf"):
        load_fit(tmp_path / "fit", trust=("my_estimators",))
    assert type(load_fit(tmp_path / "fit", trust=("my_estimators_of_a_test",)).estimator) is mine


def test_what_is_no_estimator_is_refused(folder):
    from sciinf.core.component import to_json
    from sciinf.core.fit import _digest

    built = to_json(MLP(4))
    edit(folder, estimator=built, digest=_digest((folder / "model.safetensors").read_bytes(), built))
    with pytest.raises(ValueError, match="MLP, which is neither an estimator nor a surrogate"):
        load_fit(folder)
    built = {"$class": "sciinf.core.files.read_json", "arguments": {"path": "x"}}
    edit(folder, estimator=built, digest=_digest((folder / "model.safetensors").read_bytes(), built))
    with pytest.raises(ValueError, match="not a component"):
        load_fit(folder)


def test_an_argument_that_cannot_be_written_down_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="in Flow: in MAF"):
        save_fit(tmp_path / "fit", Flow(PRIOR, OBSERVABLES, flow=MAF(1, {8: 1}.keys())), simulator={}, record={})  # type: ignore[arg-type]
    assert not list((tmp_path / "fit").glob("*")) or not (tmp_path / "fit" / "fit.json").exists()


def test_campaigns_differ_by_simulator_and_seed():
    names = [campaign_of(SIMULATOR, 1), campaign_of(SIMULATOR, 2), campaign_of({**SIMULATOR, "source": "cd"}, 1)]
    assert len(set(names)) == 3


def test_a_fit_is_shown_in_a_line(folder):
    assert repr(load_fit(folder)) == f"Flow of (a, b) trained on 'toy', in {folder}"
