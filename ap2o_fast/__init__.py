"""Preference optimisation of code models with a typed error book and the AP2O curriculum.

Importing this loads nothing heavy: the judge's server, which forks once an answer, must never import torch.
"""

__version__ = "0.1.0"
