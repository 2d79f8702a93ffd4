"""Collectives: only this file communicates with other devices.

Sums cross devices, never means: with unequal masks, or a device that holds no valid
element, the result is the same as for the whole batch on one device.

Inside `jax.shard_map` with `check_vma=True`, JAX tracks over which mesh axes a value
varies, and transposes each implicit move from invariant to varying into a collective
of its own. `pcast_stacked` makes that move once for several values, so that the
backward pass has one collective.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax
from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arrays.dtypes import accumulation_dtype, promote

Groups = Sequence[Sequence[int]]
_Tree = TypeVar("_Tree")


@dataclasses.dataclass(frozen=True)
class MappedAxes:
    """The mapped axes (of pmap, shard_map or vmap) over which statistics are shared.

    An instance is one index along these axes: a device, or an element of vmap.

    Attributes:
      names: Axis names; empty if nothing is shared.
      groups: Groups of indices of the one axis that share statistics, or None.
      tracked: Mesh axes for which types tell whether a value varies over them. A value
        that does not vary is not summed.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...] | None
    tracked: frozenset[str]

    @classmethod
    def parse(
        cls,
        axis_name: str | Sequence[str] | None,
        axis_index_groups: Groups | None,
        x: Array,
    ) -> "MappedAxes":
        """Creates mapped axes from the arguments of the user.

        Args:
          axis_name: A name, several names, or None.
          axis_index_groups: Groups of indices of the one axis, or None.
          x: The input; its type tells whether varying axes are tracked at all.

        Raises:
          NameError: If there are groups, and the name is not bound.
          TypeError: If `axis_name` has another type.
          ValueError: If the groups do not split the one axis into equal parts.
        """
        if not isinstance(axis_name, str | Sequence | None):
            raise TypeError(
                f"axis_name must be a name or a sequence of names, got {axis_name!r}."
            )
        names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())
        tracked = _manual_axes() if _varying(x) else frozenset()
        if axis_index_groups is None:
            return cls(names, None, tracked)
        if len(names) != 1:
            raise ValueError(
                "axis_index_groups must group the indices of one axis, got "
                f"axis_name={axis_name!r}. Name the one axis that the groups split."
            )
        groups = tuple(tuple(group) for group in axis_index_groups)
        size = _axis_size(names)
        equal = len({len(group) for group in groups}) == 1
        if not equal or sorted(sum(groups, ())) != list(range(size)):
            raise ValueError(
                "axis_index_groups must split the indices 0 to "
                f"{size - 1} of axis {names[0]!r} into groups of equal size, each "
                f"index in one group, got {groups}."
            )
        return cls(names, groups, tracked)

    @classmethod
    def none(cls) -> "MappedAxes":
        """Returns mapped axes without a name: nothing is shared."""
        return cls((), None, frozenset())

    def where_varying(self, x: Array) -> "MappedAxes":
        """Returns these axes without the axes over which x cannot vary by its type."""
        return dataclasses.replace(self, names=self._varying_names(x))

    def size(self, x: Array) -> int:
        """Number of instances that share statistics, and hold different parts of x."""
        names = self._varying_names(x)
        if self.groups is not None:
            return len(self.groups[0])
        return _axis_size(names)

    def sum(self, values: Sequence[Array]) -> tuple[Array, ...]:
        """Sums each value over the instances, all of them in one collective."""
        if not self.names:
            return tuple(values)
        return _unstack(self._psum(_stack(values)), values)

    def mean(self, value: Array) -> Array:
        """Averages a value over the instances."""
        return self.sum((value,))[0] / self.size(value) if self.names else value

    def max(self, value: Array) -> Array:
        """Returns the largest value of all instances, not differentiated."""
        return self._reduce(lax.pmax, lax.stop_gradient(value))

    def sum_by_run(
        self, values: Sequence[Array], axis: int, length: int
    ) -> tuple[Array, ...]:
        """Sums over each run of adjacent instances; each gets the sums of all runs.

        It takes one psum, with one slot for each run. Unlike for an all-gather, the
        type of the result says that it is the same on all instances; unlike groups, it
        works in every mode.

        Args:
          values: Terms of this instance. A value that is the same on all instances by
            its type is a term of each of them.
          axis: The axis of the results along which the runs lie.
          length: Instances in a run; divides the number of all. With 1, values are
            gathered.
        """
        instances = _axis_size(self.names)
        number = instances // length
        if number == 1:
            return self.sum(values)
        stacked = _stack(values)
        slots = jnp.arange(number).reshape(-1, *(1,) * stacked.ndim)
        own = slots == self._index() // length
        # Selected, not multiplied by 0: NaN and infinity stay in their own slot.
        placed = jnp.where(own, stacked, jnp.zeros_like(stacked))
        summed = jnp.moveaxis(self._psum(placed), 0, axis + 1)
        shape = list(stacked.shape)
        shape[axis + 1] *= number
        return _unstack(summed.reshape(shape), values)

    def own_run(self, value: Array, axis: int, length: int) -> Array:
        """Returns the result of `sum_by_run` for the run of this instance."""
        if value.shape[axis] == 1:
            return value
        return lax.dynamic_slice_in_dim(value, self._index() // length, 1, axis)

    def average_replicas(self, stats: _Tree) -> _Tree:
        """Returns `stats`, made equal on all instances.

        Where the types of `jax.shard_map` already say that `stats` are the same, they
        are returned as they are. Elsewhere (pmap, vmap, `check_vma=False`) replicas may
        have drifted apart, so their average is taken, without values that are not
        finite. It does not depend on data, so XLA joins the averages of all layers into
        one collective at the start of the step.
        """
        return jax.tree.map(self._average, stats)

    def _average(self, value: Array) -> Array:
        """Averages the finite values of all instances, unless equal by their type."""
        if not self._varying_names(value):
            return value
        wide = value.astype(accumulation_dtype(value.dtype))
        finite = jnp.isfinite(wide)
        counted = jnp.where(finite, wide, jnp.zeros_like(wide))
        total, number = self.sum((counted, finite.astype(wide.dtype)))
        return (total / number).astype(value.dtype)

    def _varying_names(self, value: Array) -> tuple[str, ...]:
        """Returns the names of the axes over which `value` may vary."""
        known_equal = self.tracked - _varying(value)
        return tuple(name for name in self.names if name not in known_equal)

    def _index(self) -> Array:
        """Returns the index of this instance along the axes."""
        return lax.axis_index(self.names)

    def _psum(self, value: Array) -> Array:
        """Sums a value over the axes on which it may vary."""
        return self._reduce(lax.psum, value)

    def _reduce(self, reduce: Callable[..., Array], value: Array) -> Array:
        """Applies `lax.psum` or `lax.pmax` over the axes on which value may vary."""
        names = self._varying_names(value)
        if not names:
            return value
        try:
            with _explain_unbound(names):
                return reduce(value, names, axis_index_groups=self.groups)
        except NotImplementedError as error:
            if self.groups is None:
                raise
            raise NotImplementedError(
                "JAX has no axis_index_groups under vmap and under shard_map with "
                "check_vma=True. Split the mesh axis in two instead (a 2-D mesh) and "
                "pass the name of the part that shares statistics as axis_name."
            ) from error


def pcast_stacked(values: Sequence[Array], like: Array) -> tuple[Array, ...]:
    """Returns `values` varying over the mesh axes that `like` varies over.

    The transpose of one such cast is one psum, whatever the number of values. Outside
    of `jax.shard_map` with `check_vma=True` there is nothing to do.
    """
    moved = list(values)
    missing = [_varying(like) - _varying(value) for value in values]
    for names in dict.fromkeys(filter(None, missing)):
        indices = [i for i, lacking in enumerate(missing) if lacking == names]
        together = [values[i] for i in indices]
        stacked = lax.pcast(_stack(together), tuple(sorted(names)), to="varying")
        for i, value in zip(indices, _unstack(stacked, together), strict=True):
            moved[i] = lax.slice(value, (0,) * value.ndim, values[i].shape)
    return tuple(moved)


def _axis_size(names: tuple[str, ...]) -> int:
    """Returns the number of instances along mapped axes; 1 without names."""
    if not names:
        return 1
    with _explain_unbound(names):
        return lax.axis_size(names)


@contextlib.contextmanager
def _explain_unbound(names: tuple[str, ...]) -> Iterator[None]:
    """Adds a fix to JAX's error for an axis name that is not bound."""
    try:
        yield
    except NameError as error:
        raise NameError(
            "axis_name must be bound by a jax.shard_map, jax.pmap or jax.vmap around "
            f"the call, got {names[0] if len(names) == 1 else names!r}. Under jax.jit "
            "alone, omit it: statistics are then of the whole array."
        ) from error


def _manual_axes() -> frozenset[str]:
    """Returns the mesh axes that a surrounding `jax.shard_map` maps over."""
    mesh = jax.sharding.get_abstract_mesh()
    return frozenset() if mesh.empty else frozenset(mesh.manual_axes)


def _varying(value: Array) -> frozenset[str]:
    """Returns the mesh axes over which value varies, by its type."""
    # Without manual axes no value varies. Types are not read then, so that a change of
    # that interface of JAX reaches only users who map.
    if not _manual_axes():
        return frozenset()
    return frozenset(jax.typeof(value).manual_axis_type.varying)


def _stack(values: Sequence[Array]) -> Array:
    """Stacks values for one collective, broadcast and promoted to each other."""
    shape = jnp.broadcast_shapes(*(value.shape for value in values))
    dtype = promote(*(value.dtype for value in values))
    return jnp.stack([jnp.broadcast_to(v.astype(dtype), shape) for v in values])


def _unstack(stacked: Array, like: Sequence[Array]) -> tuple[Array, ...]:
    """Undoes `_stack`: values have the dtypes of `like`, but the common shape."""
    return tuple(
        part.astype(v.dtype) if jnp.iscomplexobj(v) else part.real.astype(v.dtype)
        for part, v in zip(stacked, like, strict=True)
    )
