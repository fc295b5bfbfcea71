"""Captioning whole folders as a stream: what is to do, who does it, and what is written."""
