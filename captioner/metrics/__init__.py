"""Scores of captions: pure functions over references and hypotheses."""
