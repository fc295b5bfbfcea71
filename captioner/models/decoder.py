"""The attention LSTM: one step, shared by training and every search (Xu et al. 2015, section 3.1.2).

Shapes: B images, K rows per image (captions in training, beams in search), L grid locations,
D feature channels, E embedding, H hidden, T time steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.config import DecoderConfig
from captioner.models.attention import EVERYWHERE, Choice, build_attention, expectation
from captioner.sight import Sight


class DecoderState(NamedTuple):
    """What a step needs of the steps before it, and of the images, which all rows of one image share.

    Attributes
    ----------
    hidden, cell : Tensor
        (B, K, H); the cell is at least float32 under any autocast.
    features : Tensor
        (B, L, D).
    keys : Tensor
        What the attention made of the features beforehand.
    choose : Choice
        Makes a context of where the decoder might look.
    """

    hidden: Tensor
    cell: Tensor
    features: Tensor
    keys: Tensor
    choose: Choice

    def reorder(self, rows: Tensor) -> DecoderState:
        """Take for every image its rows `rows` (B, K'), as a beam search does after each word."""
        index = rows.unsqueeze(-1).expand(-1, -1, self.hidden.shape[-1])
        return self._replace(hidden=self.hidden.gather(1, index), cell=self.cell.gather(1, index))

    def select(self, images: Tensor) -> DecoderState:
        """Keep only some images, by their numbers (B',)."""
        parts = {name: getattr(self, name)[images] for name in ("hidden", "cell", "features", "keys")}
        return self._replace(**parts)


class DecoderOutput(NamedTuple):
    """What teacher forcing gives.

    Attributes
    ----------
    logits : Tensor
        (B, K, T, V), scores of the word after each input word.
    alpha : Tensor
        (B, K, T, L), the distribution of where each of them was looked for.
    location : Tensor
        (B, K, T), the one location it was looked for at, or `EVERYWHERE`.
    """

    logits: Tensor
    alpha: Tensor
    location: Tensor


class AttentionDecoder(nn.Module):
    """LSTM with attention, gated context and deep output.

    Parameters
    ----------
    config : DecoderConfig
        Kind of attention, E, H, A and dropout.
    feature_dim : int
        D, of the encoder.
    vocabulary_size : int
        V.
    """

    def __init__(self, config: DecoderConfig, feature_dim: int, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        embedding_dim, hidden_dim = config.embedding_dim, config.hidden_dim
        self.feature_dropout = nn.Dropout1d(config.feature_dropout)
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.init_hidden = nn.Linear(feature_dim, hidden_dim)
        self.init_cell = nn.Linear(feature_dim, hidden_dim)
        self.attention = build_attention(config, feature_dim)
        self.gate = nn.Linear(hidden_dim, 1)
        # The LSTM's matrix in two parts, so that the words' half is multiplied for all steps at once.
        self.lstm_word = nn.Linear(embedding_dim, 4 * hidden_dim)
        self.lstm_state = nn.Linear(feature_dim + hidden_dim, 4 * hidden_dim, bias=False)
        self.output_hidden = nn.Linear(hidden_dim, embedding_dim, bias=False)
        self.output_context = nn.Linear(feature_dim, embedding_dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.output_word = nn.Linear(embedding_dim, vocabulary_size)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.lstm_word.bias)
        # Remember by default: the forget gate starts open (Jozefowicz et al. 2015).
        nn.init.ones_(self.lstm_word.bias[hidden_dim : 2 * hidden_dim])

    def expect_words(self, counts: Tensor) -> None:
        """Start from how often each word (V,) occurs, so that training need not learn it first."""
        with torch.no_grad():
            self.output_word.bias.copy_(torch.log((counts + 1) / (counts + 1).sum()))

    def init_state(self, features: Tensor, rows: int = 1, choose: Choice = expectation) -> DecoderState:
        """Start from the mean feature: h_0 = tanh(f_h(mean a)), c_0 = tanh(f_c(mean a)).

        Parameters
        ----------
        features : Tensor
            (B, L, D).
        rows : int
            K, rows per image, all alike.
        choose : Choice
            How a context is made at every step to come.
        """
        # CNN features differ tenfold in length between locations; at one length, a location counts by its weight
        # alone, so that the map which is drawn is the map which was used.
        features = functional.layer_norm(features, features.shape[-1:])
        # A dropped channel is dropped at every location, or attention would average the noise away.
        features = self.feature_dropout(features.transpose(1, 2)).transpose(1, 2)
        # A product with ones: torch's own sum over half precision is several times slower on a CPU.
        mean = features.new_ones(len(features), 1, features.shape[1]) @ features / features.shape[1]  # (B, 1, D)
        hidden = torch.tanh(self.init_hidden(mean)).expand(-1, rows, -1)
        cell = torch.tanh(_widen(self.init_cell(mean))).expand(-1, rows, -1)
        keys = self.attention.prepare(features)
        # Brought to autocast's precision here, or every step would do it again.
        return DecoderState(hidden, cell, features.to(keys.dtype), keys, choose)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, Sight, DecoderState]:
        """Predict the word after `tokens`.

        Parameters
        ----------
        tokens : Tensor
            (B, K) int64, the previous words.
        state : DecoderState
            From `init_state` or the step before.

        Returns
        -------
        log_probs : Tensor
            (B, K, V), at least float32.
        sight : Sight
            How this word was looked for; alpha and beta are at least float32.
        state : DecoderState
        """
        embedded = self.embedding(tokens)
        context, sight, state = self._advance(self.lstm_word(embedded), state)
        logits = self._deep_output(embedded, state.hidden, context)
        return torch.log_softmax(_widen(logits), dim=-1), sight._replace(beta=_widen(sight.beta)), state

    def forward(
        self, features: Tensor, tokens: Tensor, choose: Choice = expectation, real: Tensor | None = None
    ) -> DecoderOutput:
        """Teacher forcing: the scores of every next word, given the true words before it.

        Parameters
        ----------
        features : Tensor
            (B, L, D).
        tokens : Tensor
            (B, K, T) int64, captions from `bos` on, without their last token.
        choose : Choice
            How a context is made at every step.
        real : Tensor, optional
            (B, K, T) bool, False where the next word does not matter. Once all that is left of the last rows of every
            image is such, they are left out, so images should have their longest captions first; alpha is 0 there,
            location `EVERYWHERE`, and the logits know neither image nor state.
        """
        rows = tokens.shape[1]
        left = [rows] * tokens.shape[2] if real is None else _rows_left(real)
        state = self.init_state(features, rows, choose)
        embedded = self.embedding(tokens)  # (B, K, T, E)
        words = self.lstm_word(embedded).unbind(2)  # T of (B, K, 4H)
        hidden, contexts, sights = [], [], []
        for word, k in zip(words, left, strict=True):
            state = state._replace(hidden=state.hidden[:, :k], cell=state.cell[:, :k])
            context, sight, state = self._advance(word[:, :k], state)
            hidden.append(state.hidden)
            contexts.append(context)
            sights.append(sight)
        alpha, location, _ = zip(*sights, strict=True)
        # The vocabulary is met once per batch, not once per word.
        logits = self._deep_output(embedded, _stack(hidden, rows), _stack(contexts, rows))
        return DecoderOutput(logits, _stack(alpha, rows), _stack(location, rows, EVERYWHERE))

    def _advance(self, word: Tensor, state: DecoderState) -> tuple[Tensor, Sight, DecoderState]:
        """Look, gate what was seen, and move the LSTM on: equations 1-6 and section 4.2.1."""
        look = self.attention(state.features, state.keys, state.hidden, state.choose)
        beta = torch.sigmoid(self.gate(state.hidden))  # (B, K, 1): how much the image matters now
        context = beta * look.context
        seen = torch.cat([context, state.hidden.to(context.dtype)], dim=-1)
        gates = word + self.lstm_state(seen)  # (B, K, 4H)
        i, f, g, o = _widen(gates).chunk(4, dim=-1)
        cell = torch.sigmoid(f) * state.cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = (torch.sigmoid(o) * torch.tanh(cell)).to(word.dtype)
        sight = Sight(look.alpha, look.location, beta.squeeze(-1))
        return context, sight, state._replace(hidden=hidden, cell=cell)

    def _deep_output(self, embedded: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """L_o(E y + L_h h + L_z z), equation 7."""
        deep = embedded + self.output_hidden(hidden) + self.output_context(context)
        return self.output_word(self.dropout(deep))  # type: ignore[no-any-return]


def _rows_left(real: Tensor) -> list[int]:
    """Count, for every step, the rows up to the last one that still matters in any image; at least one."""
    to_come = real.any(0).flip(1).cummax(1).values.flip(1)  # (K, T): anything from this step on
    numbers = torch.arange(1, len(to_come) + 1, device=real.device).unsqueeze(1)
    return [int(rows) for rows in torch.where(to_come, numbers, 1).amax(0).tolist()]


def _stack(parts: Sequence[Tensor], rows: int, filling: int = 0) -> Tensor:
    """Stack parts (B, k, ...) of the steps, the rows they lack filled in, to (B, K, T, ...)."""
    return torch.stack(
        [functional.pad(p, (0, 0) * (p.dim() - 2) + (0, rows - p.shape[1]), value=filling) for p in parts], 2
    )


def _widen(tensor: Tensor) -> Tensor:
    """Bring half precision to single, and leave double as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
