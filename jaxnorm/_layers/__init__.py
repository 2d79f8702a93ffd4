"""Each normalizer as a layer, described once and without a framework.

A description is a dataclass: its fields, the parameters that it learns, the running
statistics that it starts with, and one function that applies it. `jaxnorm.linen` and
`jaxnorm.nnx` mix it into a module that keeps its variables::

    class GhostBatchNorm(BatchLayer, _layers.GhostBatchNorm):
        ...
"""
