"""Rows of the error book as packed batches: which answers a forward pass holds, in what order, at what cost."""
