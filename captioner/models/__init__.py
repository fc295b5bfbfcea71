"""The networks: encoder, attention, decoder, and the captioner they make together."""
