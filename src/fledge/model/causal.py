"""What training, evaluation and release need of a causal language model, whichever way it is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fledge.errors import ModelError
from fledge.model.adapter import Adapter
from fledge.model.extended import Extended
from fledge.model.lora import LoraSettings
from fledge.model.safetensors_file import write_safetensors
from fledge.model.scalar_head import ScalarHead
from fledge.model.shape import Shape
from fledge.model.tokens import TreeTokens
from fledge.model.weights import SINGLE_NAME, Weights


class CausalModel(ABC):
    """A causal language model that can carry one adapter, or be trained itself; frozen until one of the two.

    path: in words, how it is computed. scalar_head: gives a number for a hidden state, where an objective needs one.

    Shapes: N tokens of a tree, C tokens of a context, U scored tokens, D width, V vocabulary.
    """

    shape: Shape
    dtype: torch.dtype
    path: str
    scalar_head: ScalarHead | None = None

    @abstractmethod
    def add_adapter(self, settings: LoraSettings, *, seed: int) -> None:
        """Put a new adapter beside the target projections; it changes no answer yet. It depends on the seed alone.

        Raises ModelError where a target matches nothing.
        """

    def add_scalar_head(self) -> nn.Parameter:
        """Put a head beside the LM head that gives a number for each hidden state; return its weights, all zero.

        Raises ModelError where the model gives no hidden states.
        """
        self.scalar_head = ScalarHead(self.shape.width, self.dtype)
        return self.scalar_head.weight

    @abstractmethod
    def train_weights(self, weights: Weights, span: range | None, *, masters: torch.dtype = torch.float32) -> None:
        """Train the weights themselves: those of the layers in `span`, or with None all, outside the layers too.

        `weights` are those that the model was loaded from: masters begin with their values, not with rounded ones.
        masters: float32, or bfloat16 where the optimizer rounds without bias.
        """

    @abstractmethod
    def trained_tensors(self) -> dict[str, Tensor]:
        """Return the trained weights by Hugging Face's names, as they are stored in a model's files."""

    def save_weights(self, folder: Path) -> None:
        """Write the trained weights into a folder, as float32 safetensors under Hugging Face's names."""
        tensors = {name: t.detach().float().contiguous().numpy() for name, t in self.trained_tensors().items()}
        write_safetensors(folder / SINGLE_NAME, tensors, metadata={"format": "pt"})

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what is trained of the adapter, by name."""

    @abstractmethod
    def gradients(self) -> dict[str, Tensor]:
        """Return the gradient of every adapter matrix by PEFT's name for it, or of every trained weight by its own."""

    @abstractmethod
    def adapter_tensors(self) -> dict[str, Tensor]:
        """Return every adapter matrix by PEFT's name for it: views, so writing to them changes the adapter."""

    def train_rows(self, weights: Extended) -> None:
        """Train the rows of added tokens beside the adapter, as `weights` begin them. The fast path only."""
        raise AssertionError("the plain path has no rows of added tokens")

    def token_rows(self) -> dict[str, Tensor]:
        """Return the trained rows [A, D] of added tokens by the Hugging Face name of their weight."""
        return {}

    @property
    def token_ids(self) -> range:
        """The ids of added tokens whose rows are trained."""
        return range(0)

    @abstractmethod
    def train(self, on: bool = True) -> None:
        """Switch dropout on or off."""

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """Answer as without the adapter inside the block: the reference of preference objectives.

        Weights that are trained themselves stay as they are; their base is what they are before the first step.
        """

    @abstractmethod
    def hidden(self, tokens: TreeTokens, context: Any = None) -> Tensor:
        """Return the last hidden states [N, D], after the final norm; with gradient where gradients are on."""

    @abstractmethod
    def on_trunk(self, tokens: TreeTokens) -> AbstractContextManager[Any]:
        """Give a context for `hidden` made of `tokens`; when the block ends, gradients flow back through them once."""

    def remember_lower_layers(self, trunk: TreeTokens | None, parts: Sequence[TreeTokens]) -> None:
        """Compute the layers below the adapter once for the whole run. The fast path only."""
        raise AssertionError("the plain path remembers nothing")

    def remember_prompts(self, trunk: TreeTokens | None, parts: Sequence[TreeTokens]) -> None:
        """Compute the prompts' keys and values once for the whole run. The fast path only."""
        raise AssertionError("the plain path remembers nothing")

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Forget when the block ends what is remembered inside it; what was remembered before is there again."""
        yield

    def prompt_context(self, place_C: Tensor) -> Any:
        """Return remembered prompts as a context for `hidden`."""
        raise AssertionError("the plain path remembers nothing")

    @abstractmethod
    def token_logps(self, hidden_UD: Tensor, target_U: Tensor) -> Tensor:
        """Return log p(target | hidden) [U], float32 at least, with gradient."""

    @property
    @abstractmethod
    def head(self) -> Tensor:
        """The output matrix [V, D]."""

    @property
    def has_trunks(self) -> bool:
        """Whether pieces of a step can stand on tokens that were computed before."""
        return True

    @property
    def logit_softcap(self) -> float:
        return 0.0

    def logits(self, hidden_UD: Tensor) -> Tensor:
        """Return the logits [U, V]; for a few tokens only."""
        logits = hidden_UD.to(self.head.dtype) @ self.head.t()
        return self.logit_softcap * torch.tanh(logits / self.logit_softcap) if self.logit_softcap else logits

    def adapter(self, settings: LoraSettings, *, base_name: str) -> Adapter:
        """Return a copy of the adapter, and of the head that scores, in PEFT's layout, float32."""
        tensors = {name: t.detach().float().contiguous().numpy().copy() for name, t in self.adapter_tensors().items()}
        return Adapter(
            rank=settings.rank,
            alpha=settings.alpha,
            use_rslora=settings.rslora,
            use_dora=settings.dora,
            target_modules=tuple(dict.fromkeys(name.split(".lora_")[0].rsplit(".", 1)[-1] for name in tensors)),
            base_name=base_name,
            tensors=tensors,
            token_ids=tuple(self.token_ids),
            token_rows={name: t.detach().float().contiguous().numpy().copy() for name, t in self.token_rows().items()},
            score=None if self.scalar_head is None else self.scalar_head.weight.detach().float().numpy().copy(),
        )

    @torch.no_grad()
    def load_adapter(self, adapter: Adapter) -> None:
        """Copy the matrices of `adapter`, and its head where it scores, into this model's.

        Raises ModelError where they are not the same ones.
        """
        own = self.adapter_tensors()
        if set(own) != set(adapter.tensors):
            odd = sorted(set(own) ^ set(adapter.tensors))
            raise ModelError("model.bad_adapter", f"{len(odd)} tensors do not match the model, for one {odd[0]}.")
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(adapter.tensors[name]))
        if adapter.score is not None:
            head = self.add_scalar_head()
            if len(adapter.score) != len(head):
                what = f"its head has {len(adapter.score)} numbers, the model's hidden states {len(head)}."
                raise ModelError("model.bad_adapter", what)
            head.copy_(torch.from_numpy(adapter.score))
