"""Several processes: their world, and the model sharded over it."""
