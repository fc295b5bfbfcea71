"""Searching a model for captions by the options a user gives."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from captioner.config import END, DecodingOptions
from captioner.decoding import beam_search, sample_search
from captioner.errors import CaptionerError
from captioner.hypotheses import Hypothesis
from captioner.models.attention import Choice, argmax, expectation, sample
from captioner.models.decoder import AttentionDecoder
from captioner.vocabulary import Vocabulary


def search(
    decoder: AttentionDecoder, features: Tensor, vocabulary: Vocabulary, options: DecodingOptions
) -> list[list[Hypothesis]]:
    """Search captions of a batch of features (B, L, D): per image its hypotheses, best first.

    Raises
    ------
    CaptionerError
        If the model's numbers are no probabilities.
    """
    images, device = len(features), features.device
    prefix = encode_prefix(options, vocabulary)
    generator = generator_of(options, device)
    with torch.inference_mode():
        state = decoder.init_state(features, options.beam_size, choice_of(options, generator))
    if options.temperature:
        found = sample_search(decoder.step, state, images, vocabulary, options, device, generator, prefix)
    else:
        found = beam_search(decoder.step, state, images, vocabulary, options, device, prefix)
    if not all(found):
        raise CaptionerError(
            "the model gives no word a probability, its numbers overflow; get a whole copy of the checkpoint, or "
            "choose precision = 'float32'"
        )
    return found


def check_options(options: DecodingOptions, attention: str, vocabulary: Vocabulary) -> None:
    """Refuse options that a model cannot follow.

    Parameters
    ----------
    options : DecodingOptions
    attention : str
        The decoder's.
    vocabulary : Vocabulary

    Raises
    ------
    CaptionerError
        If `options.context` is one that only hard attention knows, and the model has another; if the vocabulary lacks a
        word of `options.prefix`.
    """
    encode_prefix(options, vocabulary)
    if options.context != "expectation" and attention != "hard":
        raise CaptionerError(
            f"context = {options.context!r} needs a model with hard attention, this one has attention = {attention!r}; "
            "leave it at 'expectation', or choose another checkpoint"
        )


def encode_prefix(options: DecodingOptions, vocabulary: Vocabulary) -> list[int]:
    """Turn the words that captions are to begin with into tokens, "." into the end token.

    Raises
    ------
    CaptionerError
        If the vocabulary lacks one.
    """
    tokens = [vocabulary.eos if word == END else vocabulary.encode([word])[0] for word in options.prefix]
    special = (vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.unk)
    lacking = [word for word, token in zip(options.prefix, tokens, strict=True) if token in special and word != END]
    if lacking:
        raise CaptionerError(
            f"prefix has words that the model does not know: {', '.join(map(repr, dict.fromkeys(lacking)))}; "
            "choose others, in lower case and clitics apart (man 's)"
        )
    return tokens


def generator_of(options: DecodingOptions, device: torch.device) -> torch.Generator:
    """Make the one source of all that a search draws, words and locations, lest they go by the same numbers."""
    return torch.Generator(device).manual_seed(options.seed)


def choice_of(options: DecodingOptions, generator: torch.Generator) -> Choice:
    """Turn the name of a context into what makes it."""
    choices: dict[str, Choice] = {
        "expectation": expectation,
        "argmax": argmax,
        "sample": partial(sample, generator=generator),
    }
    return choices[options.context]
