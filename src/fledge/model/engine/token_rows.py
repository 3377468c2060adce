"""The rows of added tokens in a frozen embedding and head, trained beside an adapter.

Masters are float32; what is looked up and multiplied with are the rows of the decoder's own tables, which are brought
up to them before every pass. By the embedding a row's gradient is the sum of the gradients of the stream where its
token stands; by the head it is slope^T h over the scored tokens, slope being the objective's gradient by its logit.

Shapes: A added tokens, N tokens, U scored tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fledge.model.engine.decoder import Decoder
from fledge.model.engine.kernels import sums_dtype
from fledge.model.extended import Extended
from fledge.model.names import ARCHITECTURES


class TokenRows:
    """Rows of the tokens `ids` of `decoder`, which begin as `weights` has them; a tied head has the embedding's."""

    def __init__(self, decoder: Decoder, weights: Extended) -> None:
        assert isinstance(decoder.embedding_VD, Tensor), "rows that are trained stay in no blocks"
        self.ids, self._dtype = weights.ids, sums_dtype(decoder.dtype)
        architecture = ARCHITECTURES[decoder.shape.architecture]
        tables = {architecture.embedding: decoder.embedding_VD, architecture.head: decoder.head_VD}
        self._start = {name: torch.from_numpy(rows).to(self._dtype) for name, rows in weights.rows.items()}
        self._used = {name: tables[name][self.ids.start : self.ids.stop] for name in self._start}
        self._masters = {name: nn.Parameter(rows.clone()) for name, rows in self._start.items()}
        self._grads = {name: torch.zeros_like(rows) for name, rows in self._start.items()}
        self._embedding, self._head = architecture.embedding, next(reversed(self._start))

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {f"token_rows.{name}": master for name, master in self._masters.items()}

    def tensors(self, *, gradients: bool = False) -> dict[str, Tensor]:
        """Return the masters [A, D] (or their gradients) by Hugging Face's names for their weights."""
        return dict(self._grads) if gradients else {name: master.detach() for name, master in self._masters.items()}

    @torch.no_grad()
    def refresh(self, *, trained: bool) -> None:
        """Bring what is used up to the masters, or to what they began with: the model as it was."""
        for name, used in self._used.items():
            used.copy_(self._masters[name] if trained else self._start[name])

    def attach_gradients(self) -> None:
        """Make sure that what is added to is what the optimizer reads; zero where it was set aside."""
        for name, master in self._masters.items():
            if master.grad is not self._grads[name]:
                self._grads[name].zero_()
                master.grad = self._grads[name]

    def add_embedding_gradient(self, ids_N: Tensor, dx_ND: Tensor, scale: float) -> None:
        """Add the gradients by the embedded tokens, of which the stream is `scale` times."""
        which = (ids_N >= self.ids.start) & (ids_N < self.ids.stop)
        if which.any():
            rows = dx_ND[which].to(self._dtype)
            self._grads[self._embedding].index_add_(0, ids_N[which] - self.ids.start, rows * scale)

    def add_head_gradient(self, slope_UA: Tensor, hidden_UD: Tensor) -> None:
        """Add the gradients by the logits of these tokens, weighted by the objective."""
        self.attach_gradients()
        self._grads[self._head].addmm_(slope_UA.to(self._dtype).t(), hidden_UD.to(self._dtype))
