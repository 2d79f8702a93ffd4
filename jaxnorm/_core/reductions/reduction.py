"""What a statistic is reduced over: axes of x, blocks of an axis, other devices."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arguments.axes import sizes
from jaxnorm._core.arguments.validation import check_flags
from jaxnorm._core.arguments.warning import warn_caller
from jaxnorm._core.arrays.dtypes import accumulation_dtype, real_dtype
from jaxnorm._core.arrays.known import MaybeKnown
from jaxnorm._core.arrays.sharding import (
    axis_names,
    gather,
    named_sharding,
    number_of_shards,
)
from jaxnorm._core.reductions.collectives import Groups, MappedAxes
from jaxnorm._core.reductions.masking import apply_weights, zero_masked
from jaxnorm._core.reductions.staged_sums import staged_sum

SingleValue = bool | Literal["warn"]
"""Whether a mean may be of one value, which subtracting it erases."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """An axis of x that is split into blocks of adjacent elements, reduced separately.

    A block is a group of channels, or the examples of a ghost batch. Results have one
    element for each block along the axis. Only arrays that are already reduced along
    the other axes are reshaped, never x.

    Attributes:
      axis: The axis.
      size: Number of elements in a block; divides the size of the axis.
    """

    axis: int
    size: int

    def sum(self, value: Array) -> Array:
        """Sums each block; a value that is shared along the axis stays unchanged."""
        axis, length = self.axis, value.shape[self.axis]
        if length == 1:
            return value
        if length == self.size:
            return jnp.sum(value, axis, keepdims=True)
        blocks = (length // self.size, self.size)
        shape = (*value.shape[:axis], *blocks, *value.shape[axis + 1 :])
        names = axis_names(value)
        if names is None:
            return jnp.sum(jnp.reshape(value, shape), axis + 1)
        if blocks[0] % number_of_shards(value, names[axis]):
            # A block would lie on several shards.
            value, names[axis] = gather(value, axis), None
        names.insert(axis + 1, None)
        split = jnp.reshape(value, shape, out_sharding=named_sharding(value, names))
        return jnp.sum(split, axis + 1)

    def broadcast_back(self, value: Array) -> Array:
        """Repeats the value of each block for each of its elements."""
        axis, number = self.axis, value.shape[self.axis]
        if number == 1:
            return value
        value = jnp.expand_dims(value, axis + 1)
        shape = (*value.shape[: axis + 1], self.size, *value.shape[axis + 2 :])
        repeated = jnp.broadcast_to(value, shape)
        shape = (*shape[:axis], number * self.size, *shape[axis + 2 :])
        names = axis_names(value)
        if names is None:
            return jnp.reshape(repeated, shape)
        del names[axis + 1]
        return jnp.reshape(repeated, shape, out_sharding=named_sharding(value, names))


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs of adjacent instances of the mapped axes, each reduced separately.

    A run is a ghost batch that spans several devices. Every instance gets the results
    of all runs.

    Attributes:
      axis: A reduced axis, along which the results of the runs lie.
      length: Number of instances in a run; divides the number of all instances.
    """

    axis: int
    length: int


@dataclasses.dataclass(frozen=True)
class Reduction:
    """The axes, blocks and devices that a statistic is reduced over.

    Results have the rank of x, with size 1 along reduced axes, and one element for each
    block or run along the axis of blocks or runs.

    Attributes:
      axes: Axes of x that are reduced as a whole.
      mapped_axes: Instances of mapped axes that are reduced as well.
      blocks: Blocks of an axis, each reduced separately; or None.
      runs: Runs of instances, each reduced separately; None for one reduction over
        all instances.
    """

    axes: tuple[int, ...]
    mapped_axes: MappedAxes
    blocks: Blocks | None = None
    runs: Runs | None = None

    @classmethod
    def over(
        cls,
        x: Array,
        axes: tuple[int, ...],
        axis_name: str | Sequence[str] | None = None,
        axis_index_groups: Groups | None = None,
        blocks: Blocks | None = None,
    ) -> "Reduction":
        """Creates a reduction from the arguments of the user.

        Args:
          x: The input; its type may tell over which mesh axes it varies.
          axes: Canonical axes that are reduced as a whole.
          axis_name: A name, several, or None.
          axis_index_groups: Groups of indices of the one mapped axis, or None.
          blocks: Blocks of an axis, each reduced by itself; or None.
        """
        return cls(axes, MappedAxes.parse(axis_name, axis_index_groups, x), blocks)

    def size(self, x: Array) -> int:
        """Number of elements behind each statistic of x, over all instances."""
        block = 1 if self.blocks is None else self.blocks.size
        instances = self.mapped_axes.size(x) if self.runs is None else self.runs.length
        return instances * math.prod(sizes(x.shape, self.axes)) * block

    def check_several(
        self,
        x: Array,
        allow_single_value: SingleValue,
        fix: str = "Reduce other axes",
        effect: str = "x - mean is 0 and the result the bias, whatever x is",
    ) -> None:
        """Raises or warns if each mean is of a single value.

        Args:
          x: Input.
          allow_single_value: Whether to allow it; "warn" to warn.
          fix: The fix, for the message.
          effect: The effect of a single value, for the message.

        Raises:
          TypeError: If the flag is neither a Python bool nor a string.
          ValueError: If it is a string other than "warn", or each mean is of a single
            value and this is not allowed.
        """
        if not isinstance(allow_single_value, str):
            check_flags(allow_single_value=allow_single_value)
            if allow_single_value:
                return
        elif allow_single_value != "warn":
            raise ValueError(
                'allow_single_value must be True, False or "warn", got '
                f"{allow_single_value!r}."
            )
        size = self.size(x)
        if not isinstance(size, int) or size != 1:  # a symbolic size is not known
            return
        message = (
            f"each mean must be of at least two values, else {effect}; got an input of "
            f"shape {x.shape} with the axes {self.axes} reduced"
            + (f" and blocks of size {self.blocks.size}" if self.blocks else "")
            + f". {fix}"
        )
        if not allow_single_value:
            raise ValueError(f"{message}, or pass allow_single_value=True.")
        warn_caller(f"{message}.")

    def unmasked_count(self, x: Array) -> MaybeKnown:
        """Returns the count where there is no mask; the rank of x, 1 along each axis.

        It is known while tracing, unless a size is symbolic.
        """
        size, one = self.size(x), (1,) * x.ndim
        dtype = real_dtype(accumulation_dtype(x.dtype))
        if isinstance(size, int):
            return np.full(one, size, dtype)
        return jnp.full(one, size, dtype)

    def count(self, x: Array, mask: Array | None) -> MaybeKnown:
        """Returns the number of elements behind each statistic, or their weight."""
        if mask is None:
            return self.unmasked_count(x)
        return self.all_reduce([self._local_count(mask, x)])[0]

    def weighted_sums(self, *values: Array, mask: Array | None) -> tuple[Any, ...]:
        """Returns the count, and the weighted sum of each value, in one collective."""
        x = values[0]
        if mask is None:
            return self.unmasked_count(x), *self.sums(*values)
        weighted = [apply_weights(mask, value) for value in values]
        counted = self._local_count(mask, x)
        sums = (self.local_sum(value, masked=True) for value in weighted)
        return self.all_reduce([counted, *sums])

    def _local_count(self, mask: Array, x: Array) -> Array:
        """Returns the count, or weight, on this instance alone, given a mask."""
        dtype = real_dtype(x.dtype)
        # Adding ones in float32 stops at 2**24. Integers do not, but under jit their
        # sum does not join the collective of the others. A size may be symbolic.
        exact = isinstance(mask.size, int) and mask.size <= 2**24
        exact |= mask.dtype != jnp.bool_
        weights = lax.stop_gradient(zero_masked(mask, mask))
        count = self.local_sum(weights.astype(dtype if exact else jnp.int32))
        repeats = self.elements_per_mask_entry(mask, x)
        return count.astype(dtype) * jnp.asarray(repeats, dtype)

    def elements_per_mask_entry(self, mask: Array, x: Array) -> int:
        """How many elements of x each element of an aligned mask stands for."""
        lengths = {axis: x.shape[axis] for axis in self.axes}
        if self.blocks is not None:
            lengths[self.blocks.axis] = self.blocks.size
        shared = (n for axis, n in lengths.items() if mask.shape[axis] == 1)
        return math.prod(shared)

    def sums(self, *values: Array) -> tuple[Array, ...]:
        """Sums each value, in at most one collective."""
        return self.all_reduce([self.local_sum(value) for value in values])

    def all_reduce(self, values: Sequence[Array]) -> tuple[Array, ...]:
        """Adds up the local sums of all instances, in one collective."""
        if self.runs is None:
            return self.mapped_axes.sum(values)
        return self.mapped_axes.sum_by_run(values, self.runs.axis, self.runs.length)

    def local_sum(self, value: Array, masked: bool = False) -> Array:
        """Sums a value, perhaps one selected by a mask, on this instance alone."""
        value = staged_sum(value, self.axes, masked)
        return value if self.blocks is None else self.blocks.sum(value)

    def local_mean(self, value: Array) -> Array:
        """Averages a value on this instance alone."""
        block = 1 if self.blocks is None else self.blocks.size
        return self.local_sum(value) / (
            math.prod(sizes(value.shape, self.axes)) * block
        )

    def broadcast_back(self, value: Array) -> Array:
        """Returns a result as an array that broadcasts against x."""
        if self.runs is not None:
            value = self.mapped_axes.own_run(value, self.runs.axis, self.runs.length)
        return value if self.blocks is None else self.blocks.broadcast_back(value)
