"""SPICE (Anderson et al. 2016), by the authors' Java program as coco-caption calls it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
from pycocoevalcap.spice import get_stanford_models
from pycocoevalcap.spice.spice import Spice

from captioner.errors import MetricUnavailableError
from captioner.metrics.score import CorpusScore, Hypotheses, References, check_captions, mean_score

_LIBRARY = Path(get_stanford_models.SPICEDIR) / get_stanford_models.SPICELIB
_MODELS = [_LIBRARY / f"{get_stanford_models.JAR}{part}.jar" for part in ("", "-models")]


def spice(references: References, hypotheses: Hypotheses) -> CorpusScore:
    """SPICE, percent: F-measure of the captions' scene graphs, averaged over images.

    Parameters
    ----------
    references : sequence of sequence of word lists
        All references of every image.
    hypotheses : sequence of word lists
        One per image.

    Raises
    ------
    ValueError
        If there are no images, or an image has no reference.
    MetricUnavailableError
        If there is no Java, its models are not installed (they are never downloaded here), or the program fails.
    """
    check_captions("SPICE", references, hypotheses)
    if shutil.which("java") is None:
        raise MetricUnavailableError("needs Java")
    if not all(path.is_file() for path in _MODELS):
        raise MetricUnavailableError("needs the CoreNLP models of SPICE")
    scores = np.zeros(len(hypotheses))
    said = [image for image, hypothesis in enumerate(hypotheses) if hypothesis]  # an empty caption has no graph
    if said:
        try:
            _, graphs = Spice().compute_score(
                {image: [" ".join(reference) for reference in references[image]] for image in said},
                {image: [" ".join(hypotheses[image])] for image in said},
            )
        # It also writes beside its program, and reads the answer from a file there.
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            raise MetricUnavailableError(f"its Java program failed: {error}") from error
        scores[said] = [graph["All"]["f"] for graph in graphs]
    return mean_score("SPICE", 100 * scores)
