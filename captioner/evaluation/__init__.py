"""How good a captioner is: its captions, its attention, and how sure we are."""
