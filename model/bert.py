"""BERT for pretraining, read from the top: the losses, then the encoder. Its layers are in `model.block`."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.alignment import Alignment, sum_of_cosines
from model.attention import Attention, Mask, SoftmaxAttention, attention_mask
from model.attention_kernels import PackedRows, packed_rows
from model.batch import Batch
from model.block import Block, Layer
from model.config import BertConfig
from model.embeddings import Embeddings
from model.heads import MaskedWordHead, Pooler
from model.linear import Linear
from model.loss import IN_CHUNKS, vocab_parallel_cross_entropy
from model.norm import make_norm
from model.parallel.tensor import TensorParallel
from model.parameters import parameter_table
from model.rotary import RotaryMask, Rotation
from model.variants.parts import only_one, parts_of


class PretrainingOutput(NamedTuple):
    """Sums over this micro-batch, so that the caller can divide by the counts of the whole global batch."""

    loss: Tensor  # scalar: mlm_scale * mlm_loss + sentence_scale * sentence_loss - align_scale * cosines (+ variants)
    mlm_loss: Tensor  # scalar, summed over masked tokens, or over those that follow others in causal rows
    mlm_correct: Tensor  # scalar int64
    sentence_loss: Tensor  # scalar, summed over segments
    sentence_correct: Tensor  # scalar int64
    cosines: Tensor | None = None  # scalar, summed over tokens; None: nothing is aligned


class BertForPreTraining(nn.Module):
    """The model of one tensor-parallel rank. Parameters are created empty: see `model.initialize` and `load_weights`.

    Parameter names are those of the parameter table; a block shared by several layers is one module.
    """

    def __init__(self, config: BertConfig, tp: TensorParallel = TensorParallel()):  # noqa: B008 (immutable)
        super().__init__()
        config.check_tensor_parallel(tp.size)
        self.config = config
        self.tp = tp
        self.embeddings = Embeddings(config, tp)
        self.parts = parts_of(config)
        """What the active variants choose, wrap or add. A plain BERT has none."""
        blocks = [Block(config, block, self._attention(block), tp) for block in range(config.num_blocks)]
        self.blocks = nn.ModuleList(blocks)
        self.layers = self._layers([blocks[config.block_of(layer)] for layer in range(config.layers)])
        """What the encoder runs, from the bottom up. A plain list: `blocks` already holds each parameter, once."""
        self.make_mask: Callable[[Batch], Mask] = only_one(part.make_mask() for part in self.parts) or attention_mask
        self.recompute = False
        """Keep only the inputs of the layers, and compute them again in the backward pass."""
        self.loss_passes = IN_CHUNKS
        """How the loss goes over the scores: a compiler takes them as a whole."""
        self.kernel_for_runs: str | None = None
        """The one of `model.attention_kernels` that the run prefers for rows with runs of tokens."""
        self.alignment: Alignment | None = None
        """The teacher, for as long as there is one."""
        self.final_norm = make_norm(config, config.hidden) if config.norm == "pre" else nn.Identity()
        self.mlm = MaskedWordHead(config, tp)
        if config.sentence_head:
            self.pooler = Pooler(config.hidden, config.hidden)
            self.sentence = Linear(config.hidden, 2)
        for part in self.parts:
            part.extend(self, tp)
        self._mark_parameters()
        self._average_shared_gradients()
        if tp.sequence_parallel:
            self._sum_gradients_of_parts()

    def forward(
        self, batch: Batch, mlm_scale: float = 1.0, sentence_scale: float = 1.0, align_scale: float = 0.0
    ) -> PretrainingOutput:
        """The scales weigh the summed losses: 1 / (masked tokens or segments of the global batch) gives its mean.

        align_scale: of the cosines to a teacher. With 0 neither they nor the teacher are computed.
        """
        for part in self.parts:
            batch = part.arrange(batch)
        words, pairs = self.config.words_from, self.config.sentences_from
        align = self.alignment if align_scale else None
        target = align.target(batch) if align else None  # before the model keeps anything for the backward pass
        read = {words} if batch.sentence_labels is None else {words, pairs}
        states = self.states(batch, read | {align.layer} if align else read)
        hidden = states[words].flatten(0, 1)  # [B * S, H]
        logits = self.mlm(hidden[batch.masked_positions], self.embeddings.word.weight)  # [M, V / tp]
        vocab_size, passes = self.config.vocab_size, self.loss_passes
        nll, correct = vocab_parallel_cross_entropy(logits, batch.masked_ids, vocab_size, self.tp, passes)
        for part in self.parts:
            part.see_losses(batch.masked_ids, nll)
        mlm_loss, mlm_correct = nll.sum(), correct.sum()
        loss = mlm_loss * mlm_scale
        for part in self.parts:
            if (term := part.loss_term(self, self.tp)) is not None:
                # Added whole once a step: the shares of all micro-batches in the masked tokens sum to 1.
                loss = loss + term * len(batch.masked_ids) * mlm_scale
        cosines = None
        if align and target is not None:
            cosines = sum_of_cosines(states[align.layer], target, batch.segments)
            loss = loss - cosines * align_scale
        if batch.sentence_labels is None:
            return PretrainingOutput(loss, mlm_loss, mlm_correct, mlm_loss.new_zeros(()), mlm_correct * 0, cosines)
        hidden = states[pairs].flatten(0, 1)
        scores = self.sentence(self.pooler(hidden[batch.sentence_positions])).to(mlm_loss.dtype)  # [N, 2]
        sentence_loss = F.cross_entropy(scores, batch.sentence_labels, reduction="sum")
        sentence_correct = (scores.argmax(1) == batch.sentence_labels).sum()
        loss = loss + sentence_loss * sentence_scale
        return PretrainingOutput(loss, mlm_loss, mlm_correct, sentence_loss, sentence_correct, cosines)

    def encode(self, batch: Batch) -> Tensor:
        """Hidden states of the last layer, [B, S, H]."""
        return self.states(batch, {self.config.layers})[self.config.layers]

    def states(self, batch: Batch, layers: Collection[int]) -> dict[int, Tensor]:
        """Hidden states of some layers, counted from 1, [B, S, H] each; those above them do not run. With pre-LN all
        are taken through the final norm."""
        mask, top = self.mask_of(batch), max(layers)
        states = {}
        with self.token_randomness(batch.ids.device):
            x = self.embeddings(batch)  # with sequence parallelism [B, S / tp, H] from here on
            for number, layer in enumerate(self.layers[:top], start=1):
                x = checkpoint(layer, x, mask, use_reentrant=False) if self.recompute else layer(x, mask)
                if number in layers:
                    states[number] = x
        states[top] = x  # light layers are counted together with the one below
        return {number: self.tp.all_tokens(self.final_norm(x)) for number, x in states.items()}

    def mask_of(self, batch: Batch) -> Mask:
        """What the layers take with the hidden states: which tokens see which, and rotary positions."""
        config, mask = self.config, self.rows_for_kernel(batch) or self.make_mask(batch)
        if config.positions == "rotary":
            mask = RotaryMask(mask, Rotation.of(batch, config.head_dim, config.rotary_theta))
        for part in self.parts:
            mask = part.mask_layers(batch, mask)
        return mask

    def rows_for_kernel(self, batch: Batch) -> PackedRows | None:
        """What plain attention takes instead of a mask, where there is a kernel for it."""
        config, dropout = self.config, self.config.attention_dropout if self.training else 0.0
        if batch.runs is None or not config.attends_over_runs:
            return None
        # Not of a parameter by name: ZeRO 3 would gather it, here on those ranks alone whose rows have runs.
        dtype = next(self.parameters()).dtype
        return packed_rows(batch, dtype, config.head_dim, dropout, self.kernel_for_runs)

    def prefer_kernel(self, name: str | None, for_runs: str | None) -> None:
        """Takes these of `model.attention_kernels` wherever they can do what is asked: `for_runs` where rows have runs
        of tokens and attention needs no mask, `name` elsewhere."""
        self.kernel_for_runs = for_runs
        for module in self.modules():
            if isinstance(module, SoftmaxAttention):
                module.kernel = name

    def token_randomness(self, device: torch.device) -> AbstractContextManager[None]:
        """For dropout between the tensor-parallel regions: of each rank's own where its tokens are."""
        own = self.tp.sequence_parallel and self.training
        return self.tp.sharded_randomness(device) if own else nullcontext()

    def load_weights(self, weight_of: Callable[[str], Tensor]) -> None:
        """Fills every parameter with this rank's part of the logical tensor `weight_of(name)` [spec.shape]."""
        table = parameter_table(self.config)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(self.tp.shard(table[name], weight_of(name)).reshape(parameter.shape))

    def begin_step(self, step: int, steps_masked: int, seed: int = 0) -> None:
        """Tells variants that change with training's progress how far it is: `step` optimizer steps into the run, and
        `steps_masked` since new units were added, if some fade in. The same on all ranks."""
        for part in self.parts:
            part.begin_step(step, steps_masked, seed)

    def _attention(self, block: int) -> Attention:
        choice = only_one(part.make_attention(block, self.tp) for part in self.parts)
        return choice or SoftmaxAttention(self.config, self.config.block_heads(block), self.tp)

    def _layers(self, blocks: Sequence[Block]) -> Sequence[Layer]:
        layers: Sequence[Layer] = blocks
        for part in self.parts:
            layers = part.wrap(layers, blocks)
        return layers

    def _mark_parameters(self) -> None:
        """Marks each parameter as trained or not, and as cut or whole, as the table says. DeepSpeed counts a cut one on
        every rank in the gradient norm, a whole one on one rank."""
        table = parameter_table(self.config)
        parameters = dict(self.named_parameters())
        assert parameters.keys() == table.keys(), parameters.keys() ^ table.keys()
        for name, parameter in parameters.items():
            expected = torch.Size(table[name].local_shape(self.tp.size)).numel()
            assert parameter.numel() == expected, f"{name}: {parameter.numel()} elements, {expected} in the table"
            parameter.requires_grad_(table[name].trainable)
            parameter.tensor_model_parallel = table[name].tensor_parallel_axis is not None  # type: ignore[attr-defined]

    def _average_shared_gradients(self) -> None:
        """The gradient of a block used n times is the mean over its uses; autograd alone gives the sum.

        Yang et al. 2021 (arXiv 2110.03848), algorithm 1: w <- w - lr * mean_k grad(w_k).
        """
        for index, block in enumerate(self.blocks):
            num_uses = len(self.config.layers_of(index))
            if num_uses > 1:
                for parameter in filter(lambda parameter: parameter.requires_grad, block.parameters()):
                    parameter.register_hook(lambda gradient, n=num_uses: gradient / n)

    def _sum_gradients_of_parts(self) -> None:
        """Sequence parallelism: parameters that see a part of the tokens on each rank get the gradient of all."""
        table = parameter_table(self.config)
        for name, parameter in self.named_parameters():
            if table[name].between_regions and parameter.requires_grad:
                parameter.register_hook(self.tp.summed)
