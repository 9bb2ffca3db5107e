"""A user's own model by name or Python entry, and its weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gradfast.errors import InputError
from gradfast.models import fingerprint, load_model, load_state_dict
from gradfast.models.cifar_densenet import densenet_bc_40_12, densenet_bc_100_12
from gradfast.models.cifar_resnet import resnet20, resnet32, resnet56

ENTRY = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2))

ready = net()
number = 3

def nothing():
    return None
"""


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module ``users_own`` in the working directory."""
    (tmp_path / "users_own.py").write_text(ENTRY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, "users_own", raising=False)
    return tmp_path


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


class TestEntry:
    @pytest.mark.parametrize("spec", ["users_own:net", "users_own.py:net", "users_own:ready"])
    def test_is_built_and_put_in_eval_mode(self, entry: Path, spec: str) -> None:
        model = load_model(spec)
        assert model(torch.zeros(1, 3)).shape == (1, 2)
        assert not any(module.training for module in model.modules())

    def test_a_file_finds_its_neighbours(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """At its top and while it builds the model, from any working directory; the path is left as it was."""
        (tmp_path / "beside.py").write_text("width = 4")
        (tmp_path / "later.py").write_text("outputs = 2")
        (tmp_path / "main_file.py").write_text(
            "import torch, beside\ndef net():\n    import later\n    return torch.nn.Linear(beside.width, later.outputs)"
        )
        for name in ("beside", "later", "main_file"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        before = list(sys.path)
        assert load_model(f"{tmp_path / 'main_file.py'}:net")(torch.zeros(1, 4)).shape == (1, 2)
        assert sys.path == before

    @pytest.mark.parametrize("device", ["cuda:99", "foo"])
    def test_a_device_that_is_not_there(self, entry: Path, device: str) -> None:
        with pytest.raises(InputError, match=f"device: got '{device}'"):
            load_model("users_own:net", device=device)

    def test_a_name_without_its_scheme(self) -> None:
        with pytest.raises(InputError, match="nearest: torchvision:resnet18;"):
            load_model("resnet18")

    def test_takes_weights(self, entry: Path) -> None:
        model = load_model("users_own:net")
        state = {name: value + 1 for name, value in model.state_dict().items()}
        torch.save(state, "weights.pt")
        loaded = load_model("users_own:net", "weights.pt").state_dict()
        assert all(torch.equal(loaded[name], state[name]) for name in state)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("no_such_module:net", "there is no Python module 'no_such_module'"),
            ("no_such_file.py:net", "no_such_file.py is not a file"),
            ("users_own:nett", "users_own has no 'nett'; nearest: net"),
            ("users_own:number", r"users_own:number is 3 \(int\)"),
            ("users_own:nothing", r"users_own:nothing\(\) returned None"),
            ("cifar_resnet21", "model: got 'cifar_resnet21' .*; nearest: cifar_resnet"),
        ],
    )
    def test_refuses(self, entry: Path, spec: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            load_model(spec)

    def test_missing_dependency_of_the_entry_keeps_its_own_error(self, entry: Path) -> None:
        Path("users_own.py").write_text("import no_such_dependency")
        with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
            load_model("users_own:net")


class TestNamedArchitectures:
    def test_torchvision_with_classes_read_off_the_weights(self, tmp_path: Path) -> None:
        models = pytest.importorskip("torchvision.models")
        trained = models.get_model("mobilenet_v3_small", weights=None, num_classes=7)
        save_file(trained.state_dict(), tmp_path / "w.safetensors")
        assert same(load_model("torchvision:mobilenet_v3_small", tmp_path / "w.safetensors"), trained)
        with pytest.raises(
            InputError, match=r"2 of another shape \(classifier\.3\.weight \[7, 1024\] for \[8, 1024\]"
        ):
            load_model("torchvision:mobilenet_v3_small", tmp_path / "w.safetensors", num_classes=8)

    def test_timm_with_classes_read_off_the_weights(self, tmp_path: Path) -> None:
        timm = pytest.importorskip("timm")
        trained = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=7)
        torch.save(trained.state_dict(), tmp_path / "w.pt")
        assert same(load_model("timm:mobilenetv3_small_050", tmp_path / "w.pt"), trained)

    def test_unknown_name(self) -> None:
        pytest.importorskip("torchvision")
        with pytest.raises(InputError, match="torchvision has no model 'resnet19'; nearest: "):
            load_model("torchvision:resnet19", "w.pt")

    def test_random_weights_are_refused(self) -> None:
        with pytest.raises(
            InputError, match="weights: got None; wanted a file with the weights of cifar_resnet20"
        ):
            load_model("cifar_resnet20")

    @pytest.mark.parametrize(
        ("build", "depth", "parameters"),
        [
            (resnet20, 20, 269722),
            (resnet32, 32, 464154),
            (resnet56, 56, 853018),
            (densenet_bc_40_12, 40, 176122),
            (densenet_bc_100_12, 100, 769162),
        ],
    )
    def test_cifar_networks_have_the_published_size(self, build: type, depth: int, parameters: int) -> None:
        model = build()
        weights = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert len(weights) == depth
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert build(num_classes=3).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


class TestStateDicts:
    @pytest.mark.parametrize(
        "wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}]
    )
    @pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
    def test_nested_and_prefixed(self, tmp_path: Path, wrap: object, prefix: str) -> None:
        trained = resnet20(4)
        state = {prefix + name: value for name, value in trained.state_dict().items()}
        torch.save(wrap(state), tmp_path / "w.pth")  # type: ignore[operator]
        assert same(load_model("cifar_resnet20", tmp_path / "w.pth"), trained)

    def test_without_batch_norm_counters(self, tmp_path: Path) -> None:
        trained = resnet20()
        state = {name: value for name, value in trained.state_dict().items() if "num_batches" not in name}
        save_file(state, tmp_path / "w.safetensors")
        assert same(load_model("cifar_resnet20", tmp_path / "w.safetensors"), trained)

    def test_missing_and_unknown_names_are_counted_and_shown(self, tmp_path: Path) -> None:
        state = resnet20().state_dict()
        state["head.weight"] = state.pop("linear.weight")
        torch.save(state, tmp_path / "w.pt")
        wanted = r"w\.pt does not fit CifarResNet: 1 missing \(linear\.weight\); 1 unknown \(head\.weight\)"
        with pytest.raises(InputError, match=wanted):
            load_model("cifar_resnet20", tmp_path / "w.pt")

    def test_pickled_objects_are_not_run(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
        with pytest.raises(
            InputError, match=r"w\.pt is not a plain state dict: it holds pickled Python objects"
        ):
            load_state_dict(tmp_path / "w.pt")

    @pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
    @pytest.mark.parametrize("kept", [0, 40, 3000])
    def test_truncated(self, tmp_path: Path, name: str, kept: int) -> None:
        path = tmp_path / name
        state: dict[str, Tensor] = {"a": torch.zeros(1000)}
        torch.save(state, path) if name == "w.pt" else save_file(state, path)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(InputError, match=rf"weights: .*{name}"):
            load_state_dict(path)

    def test_missing_file(self) -> None:
        with pytest.raises(InputError, match=r"weights: nowhere\.pt is not a file"):
            load_state_dict("nowhere.pt")

    def test_no_state_dict(self, tmp_path: Path) -> None:
        torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "w.pt")
        with pytest.raises(InputError, match=r"w\.pt holds no state dict; got epoch, loss"):
            load_state_dict(tmp_path / "w.pt")


class TestFingerprint:
    def test_is_of_architecture_parameters_and_buffers(self) -> None:
        def net() -> nn.Sequential:
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())

        assert fingerprint(net()) == fingerprint(net())
        assert fingerprint(net()) == fingerprint(net().eval())
        changed = [net(), net(), net(), net()]
        changed[0][0].weight.data[0, 0] += 1e-6
        changed[1][1].running_mean[0] += 1e-6
        changed[2][2] = nn.GELU()
        changed[3].half()
        assert len({fingerprint(model) for model in [net(), *changed]}) == 5

    def test_ignores_addresses_of_functions(self) -> None:
        class Activation(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.function = lambda x: x

            def extra_repr(self) -> str:
                return repr(self.function)

        assert repr(Activation()) != repr(Activation())
        assert fingerprint(Activation()) == fingerprint(Activation())


@pytest.mark.shared
@pytest.mark.parametrize("depth", [20, 32, 56])
def test_shared_weights_load(shared: Path, depth: int) -> None:
    model = load_model(f"cifar_resnet{depth}", shared / f"cifar10-resnet{depth}.safetensors")
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
