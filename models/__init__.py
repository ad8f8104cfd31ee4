"""The causal Wan family: networks, codecs, text encoders, sampler maths, loading; knows no sessions."""
