"""Stage 03, NonaGPT: a GPT whose tokens are ASCII characters.

Self-attention derived from averaging the past, then heads, residual stream, normalisation and feed-forward put together
into a decoder-only transformer that writes Shakespeare letter by letter. It has GPT-2's details from the start, so that
stage 04 only has to make it large.
"""
