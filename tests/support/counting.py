"""What a program is made of: primitives and collectives."""

import math
import re

import jax
import jax.numpy as jnp

import jaxnorm


def count_primitives(name, function, *args):
    """How often primitives of a name are in a jaxpr and in all that it calls.

    A jaxpr, because the text of a lowered function prints what it calls twice once.
    """

    def count(jaxpr):
        own = sum(e.primitive.name.startswith(name) for e in jaxpr.eqns)
        parameters = [list(e.params.values()) for e in jaxpr.eqns]
        called = jax.tree.leaves(parameters, is_leaf=lambda p: hasattr(p, "eqns"))
        called = [getattr(p, "jaxpr", p) for p in called]
        return own + sum(count(p) for p in called if hasattr(p, "eqns"))

    return count(jax.make_jaxpr(function)(*args))


def assert_moments_are_kept(primitive, block, *args):
    """That a block whose moments are kept repeats none of these reductions."""

    def count(policy):
        remat = jax.checkpoint(block, policy=policy)
        gradient = jax.grad(lambda *args: jnp.sum(jnp.sin(remat(*args))))
        return count_primitives(primitive, gradient, *args)

    policies = jax.checkpoint_policies
    plain = count(policies.everything_saveable)
    keep = policies.save_only_these_names(jaxnorm.MOMENTS_NAME)
    assert count(keep) == plain < count(policies.nothing_saveable)


def saved_for_backward(shape, function, *arguments):
    """Dtypes of what is kept in this shape, and how many numbers besides."""
    kept = jax.eval_shape(lambda *a: jax.vjp(function, *a)[1], *arguments)
    kept = jax.tree.leaves(kept)
    size = math.prod(shape)
    large = [leaf.dtype for leaf in kept if leaf.size == size]
    return large, sum(leaf.size for leaf in kept if leaf.size != size)


def count_all_reduces(program):
    """How many all-reduces a program has, compiled or only lowered."""
    all_reduce = r"stablehlo\.all_reduce| all-reduce(?:-start)?\("
    return len(re.findall(all_reduce, program.as_text()))
