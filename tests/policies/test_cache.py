"""The shared cache and its kernel against attention row by row; without a GPU Triton interprets the kernel."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from pairuni.policies.janus import cache as cache_module
from pairuni.policies.janus.cache import Prefix, SharedCache

A, K, W, D, P = 4, 2, 32, 3, 70
STEPS = 6
SCALE = W**-0.5


@pytest.fixture(params=["torch", "torch, copied", "kernel"], name="path")
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All ways to attend."""
    monkeypatch.setattr(cache_module, "SHORT", P if request.param == "torch, copied" else P - 1)
    if request.param == "kernel":
        pytest.importorskip("triton")
    monkeypatch.setattr(cache_module, "_fusable", lambda keys: request.param == "kernel")
    return request.param


@pytest.fixture(name="device")
def _device(path: str) -> str:
    return "cuda" if path == "kernel" and torch.cuda.is_available() else "cpu"


def _turn(position: int, device: str) -> tuple[Tensor, Tensor]:
    angles = position / 100.0 ** (torch.arange(W // 2) / (W // 2))
    return torch.cat([angles.cos()] * 2).to(device), torch.cat([angles.sin()] * 2).to(device)


def _rotated(x: np.ndarray, position: int) -> np.ndarray:
    """Complex numbers, the two halves of W their parts."""
    turned = x[..., : W // 2] + 1j * x[..., W // 2 :]
    turned = turned * np.exp(1j * position / 100.0 ** (np.arange(W // 2) / (W // 2)))
    return np.concatenate([turned.real, turned.imag], -1)


def _reference(query: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[A, W] of one row: keys and values [t, K, W]; A / K neighbouring query heads share a key head."""
    out = np.empty_like(query)
    for head in range(A):
        scores = keys[:, head // (A // K)] @ query[head] * SCALE
        shares = np.exp(scores - scores.max())
        out[head] = shares / shares.sum() @ values[:, head // (A // K)]
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_that_of_each_row_alone(path: str, device: str, dtype: torch.dtype) -> None:
    """Rows of several prompts in mixed order, some of which leave: all of one prompt's, and the first of another's."""
    rng = np.random.default_rng(0)
    prompt = [torch.from_numpy(rng.normal(size=(D, K, P, W))).to(device, dtype) for _ in range(2)]
    slots = np.array([0, 2, 1, 0, 0, 0, 2, 1])
    prefix = Prefix(torch.zeros(D, 8, device=device), [prompt[0]], [prompt[1]], P)
    cache = SharedCache(prefix, torch.from_numpy(slots).to(device), STEPS)
    rows = {r: [[x[s].float().cpu().numpy().swapaxes(0, 1) for x in prompt]] for r, s in enumerate(slots)}
    tolerance = 2e-6 if dtype == torch.float32 else 2e-2
    for t in range(STEPS):
        n = len(rows)
        token = [torch.from_numpy(rng.normal(size=(n, h, W))).to(device, dtype) for h in (A, K, K)]
        assert int(cache.position_11) == P + t
        found = cache.attend(0, (token[0], token[1], token[2]), _turn(P + t, device), SCALE)
        cache.grow()
        assert found.dtype == dtype
        query, key, value = (x.float().cpu().numpy().astype(np.float64) for x in token)
        for i, history in enumerate(rows.values()):
            history.append([_rotated(key[i], P + t)[None], value[i][None]])
            keys, values = (np.concatenate([part[side] for part in history]) for side in range(2))
            expected = _reference(_rotated(query[i], P + t), keys, values)
            np.testing.assert_allclose(found[i].float().cpu().numpy(), expected, atol=tolerance, rtol=tolerance)
        if t == STEPS // 2:
            kept = [1, 3, 5, 6]  # prompt 1 has no row left
            cache.keep(torch.tensor(kept, device=device))
            rows = {name: rows[name] for name in kept}
            held = sum(x.numel() for x in cache.tensors())
            prompts = len(kept) * P if path == "torch, copied" else D * P
            assert held == 2 * K * W * (prompts + len(kept) * STEPS)


def test_the_kernel_reads_what_is_filled_and_nothing_else() -> None:
    """More tokens of a row's own than the kernel takes at a time; what lies behind them is not a number."""
    kernel = pytest.importorskip("pairuni.policies.janus.kernel", exc_type=ImportError)
    rng, filled, room = np.random.default_rng(1), 130, 140
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompt, own = rng.normal(size=(2, 1, K, P, W)), rng.normal(size=(2, 1, K, room, W))
    own[:, :, :, filled:] = np.nan
    token = [rng.normal(size=(1, h, W)) for h in (A, K, K)]

    def given(x: np.ndarray) -> Tensor:
        return torch.tensor(x, dtype=torch.float32, device=device)

    keys, values = (given(x) for x in own)
    query, key, value = (given(x) for x in token)
    slots, count = torch.zeros(1, dtype=torch.int64, device=device), torch.tensor([filled], device=device)
    found = kernel.attend(
        (query, key, value), _turn(9, device), (given(prompt[0]), given(prompt[1])), (keys, values), slots, count, SCALE
    )
    history = [
        np.concatenate([x[0].swapaxes(0, 1), mine[0, :, :filled].swapaxes(0, 1), new])
        for x, mine, new in zip(prompt, own, [_rotated(token[1], 9), token[2]], strict=True)
    ]
    expected = _reference(_rotated(token[0][0], 9), *history)
    np.testing.assert_allclose(found[0].cpu().numpy(), expected, atol=1e-5, rtol=1e-5)
    for mine, new in ((keys, _rotated(token[1], 9)), (values, token[2])):
        np.testing.assert_allclose(mine[0, :, filled].cpu().numpy(), new[0], atol=1e-5)
        assert mine[0, :, filled + 1 :].isnan().all()


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pairuni.policies.janus import kernel

function = kernel._attend
sizes = {"HEADS": 16, "KEYS": 8, "WIDTH": 128, "BLOCK": 64}
plain = {"slots": "*i64", "filled": "*i64", "prompt": "i32", "room": "i32", "scale": "fp32"}
for kept, turn in (("fp32", "fp32"), ("bf16", "fp32"), ("bf16", "bf16")):
    types = plain | dict.fromkeys(sizes, "constexpr") | {"cos": "*" + turn, "sin": "*" + turn}
    signature = {name: types.get(name, "*" + kept) for name in function.arg_names}
    constants = {(function.arg_names.index(name),): value for name, value in sizes.items()}
    source = ASTSource(fn=function, signature=signature, constexprs=constants)
    print(".entry" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"])
"""


def test_the_kernel_compiles_for_a_gpu() -> None:
    """The interpreter lets pass what the compiler refuses, such as a name whose type changes in a loop."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["True"] * 3, done.stderr[-2000:]


def test_rows_are_grouped_by_how_many_share_a_prompt() -> None:
    """Under guidance the unconditional prompt has as many rows as all others together: a product of its own."""
    assert cache_module._spans([8, 8, 8, 24]) == [slice(0, 3), slice(3, 4)]
    assert cache_module._spans([8]) == [slice(0, 1)]
    assert cache_module._spans([4, 8, 3, 1]) == [slice(0, 2), slice(2, 3), slice(3, 4)]
    assert cache_module._spans([0, 0, 3, 0, 2]) == [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
