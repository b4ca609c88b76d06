"""Attention over packed sequences that share prompts: layout, kernels, the way into transformers."""
