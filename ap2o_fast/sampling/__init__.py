"""Problems in, sampled answers out."""

from ap2o_fast.sampling.protocol import Answer, Request, Sampler

__all__ = ["Answer", "Request", "Sampler"]
