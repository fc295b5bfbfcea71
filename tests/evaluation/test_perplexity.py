from __future__ import annotations

import pytest
import torch

from captioner.config import DecoderConfig
from captioner.evaluation.perplexity import reference_log_probs
from captioner.models.attention import argmax, expectation
from captioner.models.decoder import AttentionDecoder
from captioner.vocabulary import Vocabulary

VOCABULARY = Vocabulary(["a", "dog", "runs"])
REFERENCES = [[["a", "dog"], ["a", "dog", "runs", "a", "dog"]], [["cat"], ["dog", "zebra"], ["runs"]]]


@pytest.mark.parametrize("choose", [expectation, argmax])
def test_every_word_is_rated_given_the_true_words_before_it(choose: object) -> None:
    torch.manual_seed(0)
    decoder = AttentionDecoder(DecoderConfig(5, 6, 4, attention="hard"), 7, len(VOCABULARY)).eval()
    features = torch.randn(2, 9, 7)
    found = reference_log_probs(decoder, features, REFERENCES, VOCABULARY, choose)  # type: ignore[arg-type]
    for image, (total, count) in zip(range(2), found, strict=True):
        expected = 0.0
        for reference in REFERENCES[image]:
            state = decoder.init_state(features[image : image + 1], choose=choose)  # type: ignore[arg-type]
            token = VOCABULARY.bos
            for target in [*VOCABULARY.encode(reference), VOCABULARY.eos]:
                with torch.no_grad():
                    log_probs, _, state = decoder.step(torch.tensor([[token]]), state)
                expected += float(log_probs[0, 0, target])
                token = target
        assert total == pytest.approx(expected, abs=1e-4)
        # Words the vocabulary lacks and ends count too.
        assert count == sum(len(reference) + 1 for reference in REFERENCES[image])
