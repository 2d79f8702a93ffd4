"""The normalizers with the statistics of a batch, all called in the same way.

As functions of `(x, mask, state, *params)` that give `(y, new_state)`, ours and the
oracle's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles

import jaxnorm
from support.drawing import draw, draw_stats, place
from support.normalizers import TABLE

EPSILON = 0.03  # large enough to see where it is added
FEATURES = 5


class Normalizer(NamedTuple):
    """A function, and options."""

    name: str  # here and in oracles
    options: dict = {}  # noqa: RUF012  (never changed)

    @property
    def state(self):
        """The kind of its state."""
        return TABLE[self.name].state

    @property
    def params(self):
        """The names of its parameters, in the order in which it takes them."""
        return tuple(TABLE[self.name].params)

    def ours(self, **options):
        """Our function, in training unless told otherwise."""
        function = virtual if self.name == "virtual_batch_norm" else None
        function = function or getattr(jaxnorm, self.name)
        options, place = self._arguments(options)

        def forward(x, mask, state, *params):
            return function(x, state, *place, *params, mask=mask, **options)

        return forward

    def oracle(self, x, mask, state, **options):
        """The oracle as a function of x and the parameters, for the derivative here.

        It gives y and the leaves of the new state.
        """
        function = getattr(oracles, self.name)
        options, place = self._arguments(options)
        state = jax.tree.leaves(state)
        if self.name == "batch_renorm":
            moving = {"momentum", "use_running_average"}
            own = {k: v for k, v in options.items() if k not in moving}
            corrections = oracles.renorm_corrections(x, *state[:2], mask=mask, **own)
            options["frozen"] = corrections

        def forward(x, *params):
            result = function(x, *state, *place, *params, mask=mask, **options)
            return result if isinstance(result, tuple) else (result,)

        return forward

    def _arguments(self, options):
        common = {"epsilon": EPSILON}
        if self.state is not None:
            common |= {"use_running_average": False, "momentum": 0.8}
        options = common | self.options | options
        place = (options.pop("step"),) if "step" in options else ()
        return options, place

    def draw_state(self, rng, shape=(FEATURES,), dtype=np.float32):
        """Running statistics not far from those of a batch with mean 0.5 and std 2."""
        *rest, last = shape
        shape = (*rest, last - self.options.get("instance_features", 0))
        stats = draw_stats(rng, shape, dtype)
        match self.state:
            case None:
                return ()
            case "renorm":
                return jaxnorm.RenormStats(*stats, place(3.0))
            case "mean":
                return jaxnorm.MeanStats(stats.mean)
            case "var":
                return jaxnorm.VarStats(stats.var)
            case "steps":
                return draw_stats(rng, (3, *shape), dtype)
        return stats

    def draw_params(self, rng, shape=(FEATURES,), affine=None, dtype=np.float32):
        """The parameters, of a feature shape; most may have a shape of their own."""

        def draw_one(kind):
            own = shape if affine is None else affine
            match kind:
                case "mean_logits" | "var_logits":
                    return draw(rng, 3, dtype)
                case "gate":
                    return place(rng.uniform(0, 1, own), dtype)
                case "v":
                    return place(rng.uniform(0.5, 2, own), dtype)
                case "mean" | "var":  # of a reference
                    return getattr(draw_stats(rng, shape, dtype), kind)
            return draw(rng, own, dtype, loc=1 if kind == "scale" else 0)

        return tuple(draw_one(kind) for kind in self.params)


def virtual(x, state, mean, var, *affine, **options):
    """Virtual batch norm as if its reference were parameters."""
    reference = jaxnorm.Moments(jnp.ones_like(mean), mean, var)
    return jaxnorm.virtual_batch_norm(x, reference, *affine, **options), state


def ghosts(size, rule):
    return Normalizer(
        "ghost_batch_norm", {"virtual_batch_size": size, "stats_rule": rule}
    )


FAMILY = {
    "renorm": Normalizer("batch_renorm", {"r_max": 1.5, "d_max": 0.3}),
    "ghost, pooled": ghosts(4, "pooled"),
    "ghost, mean": ghosts(2, "mean"),
    "ghost, sequential": ghosts(2, "sequential"),
    "adaptive": Normalizer("adaptive_batch_norm", {"strength": 0.7}),
    "mean only": Normalizer("mean_only_batch_norm"),
    "recurrent": Normalizer("recurrent_batch_norm", {"step": 1}),
    "switchable": Normalizer("switchable_norm"),
    "batch-instance": Normalizer("batch_instance_norm"),
    "instance-batch": Normalizer("instance_batch_norm", {"instance_features": 2}),
    "evo": Normalizer("evo_norm_b0"),
}
# One of each way to the statistics: of parts of a batch, corrected, of instances, of
# both. The others differ from one of these in what they do with them.
KINDS = ("ghost, mean", "renorm", "switchable", "evo")
VIRTUAL = Normalizer("virtual_batch_norm", {"reference_size": 6})
