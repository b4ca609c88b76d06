"""A run's numbers in TensorBoard, Weights & Biases or trackio, without a part in the run.

The run writes its files as ever. For each tracker a process of its own follows them and hands on what is new: the run
never calls a tracker, so that one which fails, hangs or is slow cannot stop it or slow it down. `follow` is that
process, `start` what the run does of it, `lines` what is new in the files, `tracker` the one interface that they have.
"""
