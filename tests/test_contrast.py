"""Cotangents of the logits: against autograd on textbook losses, and to the last digits where a prediction is sure."""

from __future__ import annotations

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradfast.contrast import Contrast, resolve
from gradfast.errors import GradfastError, InputError, ModelError

TEXTBOOK = {
    "cross_entropy": lambda z, t: -(t * z.log_softmax(1)).sum(1),
    "bce": lambda z, t: F.binary_cross_entropy_with_logits(z, t, reduction="none").sum(1),
    "bce_softmax": lambda z, t: F.binary_cross_entropy(z.softmax(1), t, reduction="none").sum(1),
    "mse": lambda z, t: (z - t).square().sum(1),
}
B, K = 4, 6
CONTRASTS = {
    "every-class": ("one-hot", None, K),
    "some-classes": ("one-hot", [4, 1], 2),
    "top-3": ("one-hot", 3, 3),
    "all-ones": ("all-ones", None, 1),
    "soft-targets": (torch.rand(2, K, generator=torch.Generator().manual_seed(1)), None, 2),
    "a-sample's-own-targets": (torch.rand(B, 3, K, generator=torch.Generator().manual_seed(2)), None, 3),
}


def logits(dtype: torch.dtype = torch.float64, b: int = B, k: int = K, scale: float = 3.0) -> Tensor:
    return (scale * torch.randn(b, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(
        dtype
    )


def by_autograd(name: str, z: Tensor, targets: Tensor) -> Tensor:
    """V [C, B, K] row by row; targets [C, K] or [B, C, K]."""
    rows = targets.unbind(-2)
    found = []
    for t in rows:
        leaf = z.clone().requires_grad_()
        found.append(torch.autograd.grad(TEXTBOOK[name](leaf, t.expand_as(z)).sum(), leaf)[0])
    return torch.stack(found)


@pytest.mark.parametrize("loss", TEXTBOOK)
@pytest.mark.parametrize("name", CONTRASTS)
def test_cotangents_are_those_of_the_textbook_loss(name: str, loss: str) -> None:
    contrast, classes, c = CONTRASTS[name]
    z = logits()
    rows = resolve(contrast, loss, classes, z)
    v = rows.cotangents()
    assert v.shape == (c, B, K)
    assert rows.num_rows == c
    assert v.is_contiguous()
    torch.testing.assert_close(v, by_autograd(loss, z, rows.targets), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", TEXTBOOK)
@pytest.mark.parametrize("name", CONTRASTS)
def test_a_callable_gives_the_same(name: str, loss: str) -> None:
    contrast, classes, _ = CONTRASTS[name]
    expected = resolve(contrast, loss, classes, logits()).cotangents()
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            v = resolve(contrast, TEXTBOOK[loss], classes, logits()).cotangents()
        torch.testing.assert_close(v, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", [*TEXTBOOK, TEXTBOOK["bce"]])
@pytest.mark.parametrize("name", CONTRASTS)
def test_chunks_of_rows_and_samples_are_parts_of_the_whole(name: str, loss: str) -> None:
    contrast, classes, c = CONTRASTS[name]
    held, z = Contrast.parse(contrast, loss, classes), logits()
    rows = held.rows(z)
    for chunk in (slice(0, 1), slice(1, None), slice(c - 1, c), slice(0, c)):
        part = rows.chunk(chunk)
        assert part.num_rows == len(range(c)[chunk])
        torch.testing.assert_close(part.cotangents(), rows.cotangents()[chunk])
        torch.testing.assert_close(part.targets, rows.targets[..., chunk, :])
    chunk = slice(1, 3)
    few = held.samples(chunk).rows(z[chunk]).cotangents()
    torch.testing.assert_close(few, rows.cotangents()[:, chunk])


def test_defaults_of_the_losses() -> None:
    z = logits()
    targets = torch.rand(2, K, dtype=torch.float64)
    for contrast, loss in [("one-hot", "cross_entropy"), ("all-ones", "bce"), (targets, "cross_entropy")]:
        given_, default = (resolve(contrast, name, None, z).cotangents() for name in (loss, None))
        assert torch.equal(given_, default)


def test_classes_and_targets_of_the_rows() -> None:
    z = logits()
    assert resolve("one-hot", None, None, z).classes.tolist() == list(range(K))
    assert resolve("one-hot", None, [4, 1], z).classes.tolist() == [4, 1]
    assert resolve("one-hot", None, torch.tensor([4, 1]), z).classes.tolist() == [4, 1]
    assert resolve("one-hot", None, range(2), z).classes.tolist() == [0, 1]
    top = resolve("one-hot", None, 2, z)
    assert torch.equal(top.classes, z.argsort(1, descending=True)[:, :2])
    assert torch.equal(top.targets, F.one_hot(top.classes, K).double())
    for contrast in ("all-ones", torch.eye(K)):
        assert resolve(contrast, None, None, z).classes is None
    assert torch.equal(resolve("all-ones", None, None, z).targets, torch.ones(1, K, dtype=torch.float64))
    own = torch.rand(1, 2, K)
    assert resolve(own, None, None, z[:1]).targets.shape == (1, 2, K)


def test_targets_of_other_dtypes() -> None:
    z = logits(torch.float32)
    expected = resolve("one-hot", "bce", None, z).cotangents()
    for targets in (
        torch.eye(K),
        torch.eye(K, dtype=torch.int64),
        torch.eye(K, dtype=torch.bool),
        torch.eye(K).half(),
    ):
        torch.testing.assert_close(resolve(targets, "bce", None, z).cotangents(), expected)


@pytest.mark.parametrize("loss", TEXTBOOK)
@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(loss: str, dtype: torch.dtype, result: torch.dtype) -> None:
    z = logits(dtype)
    v = resolve("one-hot", loss, None, z).cotangents()
    assert v.dtype == result
    torch.testing.assert_close(
        v.double(), resolve("one-hot", loss, None, z.double()).cotangents(), rtol=2e-5, atol=2e-6
    )


@pytest.mark.parametrize("loss", TEXTBOOK)
@pytest.mark.parametrize("contrast", ["one-hot", "all-ones", torch.tensor([[0.25]])])
def test_one_class(loss: str, contrast: str | Tensor) -> None:
    z = logits(k=1)
    if loss in ("cross_entropy", "bce_softmax"):
        with pytest.raises(InputError, match=f"one logit, .* so {loss} has no gradient"):
            resolve(contrast, loss, None, z)
        return
    rows = resolve(contrast, loss, None, z)
    v = rows.cotangents()
    assert v.shape == (1, B, 1)
    torch.testing.assert_close(v, by_autograd(loss, z, rows.targets), atol=1e-12, rtol=1e-10)


def test_one_sample() -> None:
    v = resolve("one-hot", None, None, logits()[:1]).cotangents()
    torch.testing.assert_close(v, resolve("one-hot", None, None, logits()).cotangents()[:, :1])


def exact(loss: str, z: list[float], t: list[float]) -> list[tuple[mpmath.mpf, mpmath.mpf]]:
    """``d loss / d z`` of one sample by the plain formula in 200 digits, each with the size of its largest terms.

    A gradient of BCE on softmax can have terms that cancel; of the other two every entry is one term.
    """
    with mpmath.workdps(200):
        z, t = [mpmath.mpf(v) for v in z], [mpmath.mpf(v) for v in t]
        p = [mpmath.exp(v) for v in z]
        p = [v / mpmath.fsum(p) for v in p]
        d = [pj - tj for pj, tj in zip(p, t, strict=True)]
        if loss == "cross_entropy":
            v = [mpmath.fsum(t) * pj - tj for pj, tj in zip(p, t, strict=True)]
            return [(vj, abs(vj)) for vj in v]
        if loss == "bce":
            v = [1 / (1 + mpmath.exp(-zj)) - tj for zj, tj in zip(z, t, strict=True)]
            return [(vj, abs(vj)) for vj in v]
        w = [dj / (1 - pj) for pj, dj in zip(p, d, strict=True)]
        size = [mpmath.fsum(abs(v) for v in w) - abs(wj) for wj in w]
        return [
            (wj - pj * mpmath.fsum(w), abs(dj) + pj * sj)
            for pj, dj, wj, sj in zip(p, d, w, size, strict=True)
        ]


@settings(deadline=None, max_examples=60)
@given(
    z=st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=7),
    loss=st.sampled_from(["cross_entropy", "bce", "bce_softmax"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_no_digits_are_lost_when_a_prediction_is_sure(z: list[float], loss: str, dtype: torch.dtype) -> None:
    """Every entry of every one-hot row has a small relative error, though 1 - p is down to 1e-35."""
    eps = torch.finfo(dtype).eps
    truth = [exact(loss, z, t) for t in torch.eye(len(z)).tolist()]
    for contrast in ("one-hot", torch.eye(len(z))):
        v = resolve(contrast, loss, None, torch.tensor([z], dtype=dtype)).cotangents()
        for row, expected in zip(v[:, 0].tolist(), truth, strict=True):
            for entry, (value, size) in zip(row, expected, strict=True):
                assert abs(entry - value) <= 300 * eps * size + 2e-38


@pytest.mark.parametrize("gap", [0.0, 10.0, 20.0, 50.0, 90.0, 300.0])
def test_the_predicted_class_of_a_sure_model(gap: float) -> None:
    """softmax(z) - onehot in float32 rounds to 0 from a gap of 17 on; here it does not until 1 - p underflows."""
    z = torch.tensor([[gap, 0.0, -1.0]])
    v = resolve("one-hot", None, [0], z).cotangents()[0, 0, 0].item()
    naive = (z.softmax(1)[0, 0] - 1).item()
    truth = -(1 - torch.tensor([[gap, 0.0, -1.0]], dtype=torch.float64).softmax(1)[0, 0]).item()
    others = -float(mpmath.exp(-gap) * (1 + mpmath.exp(-1)) / (1 + mpmath.exp(-gap) * (1 + mpmath.exp(-1))))
    assert v == pytest.approx(others, rel=1e-5, abs=2e-38)  # a processor may flush denormals to zero
    if gap <= 10:
        assert v == pytest.approx(truth, rel=1e-5)
    if 20 <= gap <= 50:
        assert naive == 0
        assert v != 0


def test_a_sure_sample_does_not_make_bce_on_softmax_overflow() -> None:
    z = torch.tensor([[500.0, 0.0, -500.0]])
    for contrast in ("one-hot", "all-ones", torch.tensor([[0.2, 0.3, 0.5]])):
        assert resolve(contrast, "bce_softmax", None, z).cotangents().isfinite().all()


def test_a_nan_sample_spoils_no_other() -> None:
    z = logits(torch.float32)
    clean = z.clone()
    z[1, 2] = torch.nan
    for loss in TEXTBOOK:
        for contrast, classes, _ in CONTRASTS.values():
            v, expected = (resolve(contrast, loss, classes, y).cotangents() for y in (z, clean))
            assert v[:, 1].isnan().any(1).all()
            torch.testing.assert_close(v[:, [0, 2, 3]], expected[:, [0, 2, 3]])


def test_targets_are_finite_though_their_sum_is_not() -> None:
    targets = torch.full((2, K), 3e38)
    assert not targets.sum().isfinite()
    assert Contrast.parse(targets, "mse").targets is not None
    for pair in ((torch.inf, -torch.inf), (torch.nan, 0.0)):
        with pytest.raises(InputError, match="values that are NaN or infinite"):
            Contrast.parse(torch.tensor([[*pair, *[0.0] * (K - 2)]]), "mse")


@pytest.mark.parametrize(
    ("arguments", "named", "came", "wanted"),
    [
        (("onehot", None, None), "contrast", "'onehot'", '"one-hot"'),
        ((None, None, None), "contrast", "None", '"one-hot"'),
        ((0.5, None, None), "contrast", "0.5", "tensor"),
        ((torch.ones(K), None, None), "contrast", "[6]", "[C, K] or [B, C, K]"),
        ((torch.ones(2, K - 1), None, None), "contrast", "[2, 5]", "[C, 6] or [4, C, 6]"),
        ((torch.ones(B + 1, 2, K), None, None), "contrast", "[5, 2, 6]", "[4, C, K]"),
        ((torch.ones(0, K), None, None), "contrast", "[0, 6]", "none of them zero"),
        ((torch.ones(1, K, dtype=torch.complex64), None, None), "contrast", "complex64", "floating"),
        ((torch.full((1, K), torch.nan), None, None), "contrast", "6 values", "wanted finite targets"),
        (("one-hot", "nll", None), "loss", "'nll'", '"cross_entropy"'),
        (("one-hot", 3, None), "loss", "3", "callable"),
        (("one-hot", None, [0, 6, 9]), "classes", "[6, 9]", "from 0 to 5"),
        (("one-hot", None, [-1]), "classes", "[-1]", "from 0"),
        (("one-hot", None, [1, 1]), "classes", "[1]", "distinct"),
        (("one-hot", None, []), "classes", "[]", "class indices"),
        (("one-hot", None, 0), "classes", "top 0", "at least 1"),
        (("one-hot", None, 7), "classes", "top 7", "at most 6"),
        (("one-hot", None, 2.5), "classes", "2.5", "class indices"),
        (("one-hot", None, True), "classes", "True", "class indices"),
        (("one-hot", None, "all"), "classes", "'all'", "class indices"),
        (("one-hot", None, [0.5]), "classes", "[0.5]", "class indices"),
        (("one-hot", None, torch.tensor([0.5])), "classes", "float32", "class indices"),
        (("all-ones", None, [1]), "classes", "[1]", "one-hot"),
        ((torch.eye(K), None, 2), "classes", "2", "one-hot"),
    ],
)
def test_bad_arguments(arguments: tuple[object, ...], named: str, came: str, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(*arguments, logits())  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"{named}: ")
    assert came in message
    assert wanted in message


@pytest.mark.parametrize(
    ("loss", "came"),
    [
        (lambda z, t: TEXTBOOK["bce"](z, t).mean(), "shape []"),
        (lambda z, t: (z - t).square(), "shape [24, 6]"),
        (lambda z, t: 0.0, "0.0 (float)"),
        (lambda z, t: z.detach().sum(1), "cannot follow"),
        (lambda z, t: z.argmax(1).float(), "cannot follow"),
        (lambda z, t: torch.ones(len(z), requires_grad=True), "does not depend on the logits"),
    ],
)
def test_bad_callables(loss: object, came: str) -> None:
    with pytest.raises(InputError, match="loss: ") as caught:
        resolve("one-hot", loss, None, logits()).cotangents()  # type: ignore[arg-type]
    assert came in str(caught.value)
    assert "wanted" in str(caught.value)


def test_an_error_inside_a_callable_is_the_users_own() -> None:
    def loss(z: Tensor, t: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        resolve("one-hot", loss, None, logits()).cotangents()


@pytest.mark.parametrize(
    "z", [torch.randn(6), torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.int64), torch.randn(2, 0)]
)
def test_logits_that_are_none(z: Tensor) -> None:
    with pytest.raises(ModelError, match=r"model: its output is .* wanted") as caught:
        resolve("one-hot", None, None, z)
    assert isinstance(caught.value, GradfastError)
