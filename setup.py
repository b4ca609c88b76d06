"""Map the two roots: `ap2o_fast` lies here, `ap2o_kernels` under `kernels/`, which is itself no package.

A `kernels/__init__.py` would shadow Hugging Face's package `kernels`, which transformers imports. Everything else about
the distribution is in pyproject.toml.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(".", include=["ap2o_fast*"]), *find_packages("kernels")],
    package_dir={"ap2o_kernels": "kernels/ap2o_kernels"},
)
