"""Each normalizer as a layer, described once and without a framework.

A description is a dataclass: its fields, the parameters that it learns, the running
statistics that it starts with, the function that it applies, and how it is called.
`jaxnorm.linen` and `jaxnorm.nnx` mix it into a module that keeps its variables::

    class GhostBatchNorm(BatchModule, batch.GhostBatchNorm):
        ...

`jaxnorm.equinox` makes one in each call, from the fields of its module.
"""
