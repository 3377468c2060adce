"""The kernels of native/ over tensors, through their C interface."""

from __future__ import annotations

import ctypes
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from fledge.model.engine.compile import compiled
from fledge.model.engine.kernels import Adapted, HeadShape, Kernels, Keys, Layout, LowRank
from fledge.model.engine.plain import PlainKernels, read_blocks
from fledge.model.style import Activation
from fledge.model.tokens import TreeTokens
from fledge.model.weights import Blocks


def kernels_for(dtype: torch.dtype) -> Kernels:
    """Return the fastest kernels there are for `dtype` on this machine."""
    found = compiled(dtype)
    return (
        PlainKernels(found.reason, dtype)
        if found.library is None
        else CompiledKernels(found.library, found.reason, dtype)
    )


def _attention_struct(real: Any) -> tuple[type[ctypes.Structure], type[ctypes.Structure]]:
    whole, pointer = ctypes.c_longlong, ctypes.c_void_p

    class Attention(ctypes.Structure):
        _fields_ = [
            *((name, whole) for name in ("tokens", "context", "nodes", "heads", "kv_heads", "width", "window")),
            *((name, real) for name in ("scale", "softcap")),
            *((name, pointer) for name in ("node_B5", "span_S3")),
            ("q", pointer),
            ("ldq", whole),
            ("k", pointer),
            ("v", pointer),
            ("ldk", whole),
            ("context_k", pointer),
            ("context_v", pointer),
            ("ldc", whole),
        ]

    class Grad(ctypes.Structure):
        _fields_ = [
            ("out", pointer),
            ("dout", pointer),
            ("ldo", whole),
            ("lse", pointer),
            ("dq", pointer),
            ("lddq", whole),
        ]

    return Attention, Grad


class CompiledKernels:
    """The compiled kernels of one dtype. See Kernels for what each method does."""

    name = "compiled"

    def __init__(self, library: ctypes.CDLL, reason: str, dtype: torch.dtype) -> None:
        self.reason, self.dtype = reason, dtype
        real = ctypes.c_double if dtype == torch.float64 else ctypes.c_float
        self._structs = _attention_struct(real)
        self._spare = self._turned = torch.empty(0)
        p, n, i = ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int
        signatures: dict[str, list[Any]] = {
            "linear": [p, n, p, n, n, i, p, n, p, n, p, n, p, n, n, p, n, i, p, n, p, n, n, i],
            "adapter_grad": [p, n, n, p, n, p, p, n, n, n, real, p, n, p, p, p, n, i],
            "norm": [p, i, n, n, n, n, p, real, p, p, i, n, p, i],
            "norm_grad": [p, i, n, p, i, n, n, n, n, p, p, p, i, n, i, p, i],
            "rope": [p, n, n, n, n, p, p, real, i],
            "gated_activation": [p, n, n, i, p, p, i],
            "log_softmax": [p, n, n, p, real, p, i, i],
            "dequantize": [i, p, n, p, p, n, n, n, i],
            "tree_attention": [p, p, n, p, i],
            "tree_attention_grad": [p, p, p, p, n, p, p, p, i],
        }
        for name, arguments in signatures.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int if name == "dequantize" else None
            setattr(self, f"_{name}", function)

    _linear: Any
    _adapter_grad: Any
    _norm: Any
    _norm_grad: Any
    _rope: Any
    _gated_activation: Any
    _log_softmax: Any
    _dequantize: Any
    _tree_attention: Any
    _tree_attention_grad: Any

    def linear(
        self,
        out: Tensor,
        x: Tensor,
        w: Tensor,
        layout: Layout,
        *,
        adapter: LowRank | None = None,
        residual: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        rows, width = out.shape
        riding: tuple[Any, ...] = (None, 0, None, 0, None, 0, None, 0, 0)
        if adapter is not None:
            source, low = x if adapter.x is None else adapter.x, adapter.low
            riding = (source.data_ptr(), source.stride(0), adapter.first.data_ptr(), adapter.first.stride(0))
            riding += (adapter.second.data_ptr(), adapter.second.stride(0), low.data_ptr(), low.stride(0), low.shape[1])
        self._linear(
            *(x.data_ptr(), x.stride(0), w.data_ptr(), w.stride(0), x.shape[1], layout, *riding),
            *(out.data_ptr(), out.stride(0), out.dtype != self.dtype, _pointer(residual), _stride(residual)),
            *(_pointer(bias), rows, width, torch.get_num_threads()),
        )
        return out

    def adapter_grad(self, site: Adapted, x: Tensor, dy: Tensor, low: Tensor, dlow: Tensor) -> None:
        assert low.stride(0) == dlow.stride(0)
        count = len(site.parts)
        starts = (ctypes.c_longlong * count)(*(part.start for part in site.parts))
        widths = (ctypes.c_longlong * count)(*(part.width for part in site.parts))
        grads = (ctypes.c_void_p * count)(*(grad.data_ptr() for grad in site.grad_b))
        self._adapter_grad(
            *(x.data_ptr(), x.stride(0), x.shape[1], dy.data_ptr(), dy.stride(0)),
            *(low.data_ptr(), dlow.data_ptr(), low.stride(0), low.shape[1], site.rank, site.scale),
            *(site.grad_a.data_ptr(), count, starts, widths, grads, x.shape[0], torch.get_num_threads()),
        )

    def weight_grad(self, grad: Tensor, x: Tensor, dy: Tensor) -> None:
        tokens, outs = dy.shape
        # The first factor of a product is read in pairs.
        even = tokens + tokens % 2
        if self._turned.numel() < outs * even:
            self._turned = torch.empty(outs * even, dtype=self.dtype)
        turned = self._turned[: outs * even].view(outs, even)
        turned[:, :tokens].copy_(dy.t())
        turned[:, tokens:].zero_()
        self.linear(grad, turned[:, :tokens], x, Layout.KN, residual=grad)

    def norm(
        self, out: Tensor, x: Tensor, weight: Tensor, eps: float, scale: Tensor, *, heads: int = 1, residual: Any = None
    ) -> None:
        rows, width = x.shape
        self._norm(
            *(x.data_ptr(), x.dtype != self.dtype, x.stride(0), rows, heads, width // heads, weight.data_ptr(), eps),
            *(_pointer(residual), out.data_ptr(), out.dtype != self.dtype, out.stride(0), scale.data_ptr()),
            torch.get_num_threads(),
        )

    def norm_grad(
        self,
        dx: Tensor,
        dy: Tensor,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        *,
        heads: int = 1,
        accumulate: bool = False,
        rounded: Tensor | None = None,
    ) -> None:
        rows, width = x.shape
        self._norm_grad(
            *(x.data_ptr(), x.dtype != self.dtype, x.stride(0), dy.data_ptr(), dy.dtype != self.dtype, dy.stride(0)),
            *(rows, heads, width // heads, weight.data_ptr(), scale.data_ptr(), dx.data_ptr(), dx.dtype != self.dtype),
            *(dx.stride(0), accumulate, _pointer(rounded), torch.get_num_threads()),
        )

    def rope(self, x: Tensor, cos: Tensor, sin: Tensor, *, width: int, back: bool = False) -> None:
        rows, columns = x.shape
        sign = -1.0 if back else 1.0
        threads = torch.get_num_threads()
        self._rope(
            x.data_ptr(), rows, columns // width, width, x.stride(0), cos.data_ptr(), sin.data_ptr(), sign, threads
        )

    def gated(self, gate_up: Tensor, kind: Activation, out: Tensor, dy: Tensor | None = None) -> None:
        rows, width = out.shape
        self._gated_activation(
            gate_up.data_ptr(), rows, width, kind, out.data_ptr(), _pointer(dy), torch.get_num_threads()
        )

    def attention(self, out: Tensor, lse: Tensor, q: Tensor, keys: Keys, tree: TreeTokens, shape: HeadShape) -> None:
        task = self._task(q, keys, tree, shape)
        self._tree_attention(ctypes.byref(task), out.data_ptr(), out.stride(0), lse.data_ptr(), torch.get_num_threads())

    def attention_grad(
        self,
        grads: tuple[Tensor, Tensor, Tensor],
        dout: Tensor,
        out: Tensor,
        lse: Tensor,
        q: Tensor,
        keys: Keys,
        tree: TreeTokens,
        shape: HeadShape,
        dcontext: Tensor | None = None,
    ) -> None:
        dq, dk, dv = grads
        task, threads = self._task(q, keys, tree, shape), torch.get_num_threads()
        grad = self._structs[1](
            out.data_ptr(), dout.data_ptr(), out.stride(0), lse.data_ptr(), dq.data_ptr(), dq.stride(0)
        )
        count = threads * 2 * (tree.num_context + tree.num_tokens) * shape.kv_heads * shape.width
        if self._spare.numel() < count:
            self._spare = torch.empty(count, dtype=lse.dtype)
        context = (None, None) if dcontext is None else (dcontext[0].data_ptr(), dcontext[1].data_ptr())
        self._tree_attention_grad(
            *(ctypes.byref(task), ctypes.byref(grad), dk.data_ptr(), dv.data_ptr(), dk.stride(0)),
            *(self._spare.data_ptr(), *context, threads),
        )

    def _task(self, q: Tensor, keys: Keys, tree: TreeTokens, shape: HeadShape) -> ctypes.Structure:
        assert keys.k.stride(0) == keys.v.stride(0)
        assert (keys.context_k is None) == (tree.num_context == 0)
        assert _stride(keys.context_k) == _stride(keys.context_v)
        pointers = (_pointer(keys.context_k), _pointer(keys.context_v), _stride(keys.context_k))
        return self._structs[0](
            *(tree.num_tokens, tree.num_context, tree.node_B5.shape[0], shape.heads, shape.kv_heads, shape.width),
            *(shape.window, shape.scale, shape.softcap, tree.node_B5.data_ptr(), tree.span_S3.data_ptr()),
            *(q.data_ptr(), q.stride(0), keys.k.data_ptr(), keys.v.data_ptr(), keys.k.stride(0), *pointers),
        )

    def dequantize(self, out: Tensor, stored: Blocks) -> None:
        rows, columns = out.shape
        order = None if stored.order is None else np.ascontiguousarray(stored.order)
        assert stored.rows.flags.c_contiguous and out.stride(1) == 1
        assert rows == len(stored.rows if order is None else order)
        known = self._dequantize(
            int(gguf.GGMLQuantizationType[stored.type]),
            *(stored.rows.ctypes.data, stored.rows.shape[1], None if order is None else order.ctypes.data),
            *(out.data_ptr(), out.stride(0), rows, columns, torch.get_num_threads()),
        )
        if not known:
            read_blocks(out, stored)

    def log_softmax(self, logits: Tensor, target: Tensor, softcap: float, logps: Tensor, *, gradient: bool) -> Tensor:
        rows, vocab = logits.shape
        self._log_softmax(
            logits.data_ptr(), rows, vocab, target.data_ptr(), softcap, logps.data_ptr(), gradient,
            torch.get_num_threads(),
        )  # fmt: skip
        return logits.view(self.dtype)[:, :vocab]


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _stride(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.stride(0)
