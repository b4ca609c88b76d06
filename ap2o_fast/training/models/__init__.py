"""The Hugging Face model: loading, checking, saving, adapters, quantised weights, layer kernels, the packed forward."""
