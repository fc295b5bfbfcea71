"""Captions and features on disk, and the batches made of them."""
