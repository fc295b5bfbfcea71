"""All metrics of captions at once."""

from __future__ import annotations

from functools import partial

from captioner.errors import MetricUnavailableError
from captioner.metrics.bleu import bleu, combine_bleu
from captioner.metrics.cider import cider, cider_d
from captioner.metrics.meteor import combine_meteor, meteor
from captioner.metrics.rouge import rouge_l
from captioner.metrics.score import Combine, CorpusScore, Hypotheses, References, check_captions, ratio
from captioner.metrics.spice import spice

_METRICS = {"METEOR": meteor, "ROUGE-L": rouge_l, "CIDEr": cider, "CIDEr-D": cider_d, "SPICE": spice}
# How totals over images become each of the scores, for those that were written down.
COMBINE: dict[str, Combine] = {
    **{f"BLEU-{n}": partial(combine_bleu, order=n) for n in range(1, 5)},
    **dict.fromkeys(_METRICS, ratio),
    "METEOR": combine_meteor,
}
_IN_JAVA = {"METEOR", "SPICE"}


def score_captions(
    references: References, hypotheses: Hypotheses, *, java: bool = True
) -> tuple[dict[str, CorpusScore], dict[str, str]]:
    """Score captions by every metric that can run here.

    Parameters
    ----------
    references : sequence of sequence of word lists
        All references of every image.
    hypotheses : sequence of word lists
        One per image.
    java : bool
        Whether to run the metrics that are Java programs, which take their time to start.

    Returns
    -------
    scores : dict
        By name, in this order: BLEU-1 to BLEU-4, METEOR, ROUGE-L, CIDEr, CIDEr-D, SPICE.
    missing : dict
        Why a metric is not among them ("needs Java"), by name.

    Raises
    ------
    ValueError
        If there are fewer than two images, or an image has no reference.
    """
    check_captions("CIDEr", references, hypotheses, least=2)  # before Java starts
    scores = {score.name: score for score in bleu(references, hypotheses)}
    missing = {}
    for name, metric in _METRICS.items():
        if name in _IN_JAVA and not java:
            missing[name] = "needs Java, which was switched off"
            continue
        try:
            scores[name] = metric(references, hypotheses)
        except MetricUnavailableError as error:
            missing[name] = str(error)
    return scores, missing
