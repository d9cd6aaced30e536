"""Counts of floating-point operations that leave the model and its autograd graph alone.

Only contractions are counted, one multiplication and one addition for each pair of numbers that meet: products of
matrices and vectors, convolutions, attention, and decompositions of matrices. Work entry by entry (activations, norms,
sums, updates of a vector) is counted nowhere, neither a model's nor a method's: memory bounds it, and seconds show it.
torch's FlopCounterMode has the formulas of matrix products, convolutions and attention; those that it lacks are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode, flop_registry, shape_wrapper

EIGH_FLOPS = 9.0
"""d^3 operations of a symmetric eigendecomposition with vectors (Golub and Van Loan 2013, section 8.3)."""

Shape = tuple[int, ...]


def _mv(a: Shape, x: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a)


def _addmv(start: Shape, a: Shape, x: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a)


def _dot(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a)


def _ger(start: Shape, a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a) * prod(b)


def eigh_flops(a: Shape, *_: Any, **__: Any) -> int:
    """Return 9 d^3 for each matrix (d, d)."""
    return round(EIGH_FLOPS * prod(a) * a[-1])


def _svd(a: Shape, *_: Any, **__: Any) -> int:
    """4 m n^2 + 22 n^3 of the thin SVD with both sides (Golub and Van Loan 2013, figure 8.6.1), m >= n."""
    m, n = max(a[-2:]), min(a[-2:])
    return prod(a[:-2]) * (4 * m * n**2 + 22 * n**3)


def _qr(a: Shape, *_: Any, **__: Any) -> int:
    """4 (m n^2 - n^3 / 3) of Householder's QR with an explicit Q (Golub and Van Loan 2013, section 5.2), m >= n."""
    m, n = max(a[-2:]), min(a[-2:])
    return prod(a[:-2]) * round(4 * (m * n**2 - n**3 / 3))


def _cholesky(a: Shape, *_: Any, **__: Any) -> int:
    return round(prod(a) * a[-1] / 3)


def _lu(a: Shape, *_: Any, **__: Any) -> int:
    return round(2 * prod(a) * a[-1] / 3)


def _inverse(a: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a) * a[-1]


def _solve(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """LU of a (d, d), and two triangular systems for each column of b."""
    return _lu(a) + 2 * _columns(a, b) * a[-1] ** 2


def _triangular(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    return _columns(a, b) * a[-1] ** 2


def _cholesky_solve(b: Shape, a: Shape, *_: Any, **__: Any) -> int:
    return 2 * _columns(a, b) * a[-1] ** 2


def _eig(a: Shape, *_: Any, **__: Any) -> int:
    """25 d^3 with vectors (Golub and Van Loan 2013, section 7.5)."""
    return 25 * prod(a) * a[-1]


def _pinv(a: Shape, *_: Any, **__: Any) -> int:
    return _svd(a) + 2 * prod(a) * min(a[-2:])


def _lstsq(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """Householder's QR, applied to each column of b and solved."""
    m, n = max(a[-2:]), min(a[-2:])
    return _qr(a) // 2 + prod(b) // a[-2] * (4 * m * n + n * n)


def _rnn_layer(x: Shape, w: Shape, u: Shape, *_: Any, **__: Any) -> int:
    """oneDNN's LSTM in one direction: x (T, n, I) and the states by W (4H, I) and U (4H, H)."""
    return 2 * prod(x[:-1]) * (prod(w) + prod(u))


def _columns(a: Shape, b: Shape) -> int:
    return prod(b) // a[-1]


_aten = torch.ops.aten
FORMULAS: dict[Any, Callable[..., int]] = {
    _aten.mv: _mv,
    _aten.addmv: _addmv,
    _aten.addmv_: _addmv,
    _aten.dot: _dot,
    _aten.vdot: _dot,
    _aten.ger: lambda a, b, *_, **__: _ger((), a, b),
    _aten.addr: _ger,
    _aten.addmm_: lambda start, a, b, *_, **__: 2 * prod(a) * b[-1],
    _aten.baddbmm_: lambda start, a, b, *_, **__: 2 * prod(a) * b[-1],
    _aten.mkldnn_rnn_layer: _rnn_layer,
    _aten.mkldnn_rnn_layer_backward: lambda x, w, u, *_, **__: 2 * _rnn_layer(x, w, u),
    _aten._linalg_eigh: eigh_flops,
    _aten._linalg_svd: _svd,
    _aten.linalg_qr: _qr,
    _aten._linalg_eigvals: _eig,
    _aten.linalg_eig: _eig,
    _aten.linalg_pinv: _pinv,
    _aten.linalg_lstsq: _lstsq,
    _aten._linalg_det: _lu,
    _aten._linalg_slogdet: _lu,
    _aten.cholesky_inverse: lambda a, *_, **__: 2 * _cholesky(a),
    _aten.linalg_cholesky_ex: _cholesky,
    _aten.linalg_inv_ex: _inverse,
    _aten.linalg_lu_factor_ex: _lu,
    _aten._linalg_solve_ex: _solve,
    _aten.linalg_solve_triangular: _triangular,
    _aten.triangular_solve: lambda b, a, *_, **__: _triangular(a, b),
    _aten.cholesky_solve: _cholesky_solve,
}
"""Operations from the shapes of their arguments, for what FlopCounterMode does not know."""


class FlopCounter(FlopCounterMode):
    """torch's FlopCounterMode with `FORMULAS`, and without its counts by module.

    For those it puts hooks on every module and on the tensors that modules are called with. The hooks fail inside
    `autograd.grad` where a module is called on a parameter (`nn.utils.parametrizations`, learned tokens), and where a
    forward pass itself differentiates (forces). Totals need none of them.
    """

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=FORMULAS)
        self.mod_tracker: Any = _NoModules()

    def __enter__(self) -> Self:
        """Begin to count from zero."""
        self.flop_counts.clear()
        mode: Any = _UnguardedMode(self)
        self.mode = mode
        mode.__enter__()
        return self


_guarded: Any = _FlopCounterMode.__torch_dispatch__
_torchs_own: Any = getattr(_guarded, "__wrapped__", _guarded)
_IMPLICIT: Any = torch._C.DispatchKey.CompositeImplicitAutograd
_plain_known: dict[int, tuple[Any, bool]] = {}


class _UnguardedMode(_FlopCounterMode):
    """torch's own mode without its guard against torch.compile, which imports for a second and wraps each operation.

    Nothing is compiled while operations are counted. What is made of no other operations is not looked at for them.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count as torch's mode does; it looks into every operation anew, at ten times the cost of a small one."""
        if not _plain(func):
            return _torchs_own(self, func, types, args, kwargs)
        kwargs = kwargs or {}
        counter: Any = self.counter
        return counter._count_flops(func._overloadpacket, func(*args, **kwargs), args, kwargs)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def _plain(func: Any) -> bool:
    """Whether `func` is one operation on tensors: not made of others, no question about sizes, of no higher order."""
    known = _plain_known.get(id(func))
    if known is None:
        returns = func._schema.returns if isinstance(func, torch._ops.OpOverload) else ()
        makes = any("Tensor" in str(each.type) for each in returns)
        known = func, makes and not func.has_kernel_for_dispatch_key(_IMPLICIT)
        _plain_known[id(func)] = known  # with `func`, so that no other gets its number
    return known[1]


class _NoModules:
    """Says that everything happens at the top."""

    parents: Iterable[str] = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def count_flops(call: Callable[[], object]) -> int:
    """Return the floating-point operations of the contractions that torch makes in `call()`."""
    with FlopCounter() as counter:
        call()
    return int(counter.get_total_flops())


def count_contractions(work: Callable[[], object]) -> int:
    """Return the same as `count_flops` for work that calls no model, at a few microseconds per operation of torch."""
    with _Contractions() as counted:
        work()
    return int(counted.flops)


class _Contractions(TorchDispatchMode):
    """The formulas alone, without records of what was counted where."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its types out
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = _ALL.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


_WRAPPED: Any = shape_wrapper  # torch leaves its types out
_ALL: dict[Any, Callable[..., int]] = {**flop_registry, **{op: _WRAPPED(each) for op, each in FORMULAS.items()}}


def count_entries(work: Callable[[], object]) -> int:
    """Return how many numbers torch's operations write in `work()`: the price of work that has no contractions."""
    with _Entries() as counted:
        work()
    return int(counted.entries)


class _Entries(TorchDispatchMode):
    """Sums the sizes of all results that are no views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its types out
        self.entries = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        views = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
        if not views:
            self.entries += sum(each.numel() for each in tree_leaves(out) if isinstance(each, torch.Tensor))
        return out
