"""Replacement of the normalizers of a model, which keeps variables."""

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import jax
from flax import linen as nn
from flax import traverse_util
from jax import Array
from jax import numpy as jnp

from jaxnorm._layers.replacements import check_replacements, make_replacement
from jaxnorm.tools._apply import check_apply

if TYPE_CHECKING:
    from flax.linen.module import InterceptorContext

Replacements = Mapping[type[nn.Module], Callable[[Any], nn.Module]]
"""A dict from the class of a normalizer to a function that returns its replacement."""


def replace_norms(
    model: nn.Module,
    replacements: Replacements,
    variables: Mapping[str, Any],
    *args: Any,
    rngs: Array | Mapping[str, Array] | None = None,
    **kwargs: Any,
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Returns a model's `apply` with other normalizers, and variables for it.

    For instance, replace batch norm by group norm, by ghost batch norm, or by batch
    norm with an `axis_name`, or Flax's normalizers by those of this library. The
    replacement runs at the path of the normalizer that it replaces, with the same
    arguments, except that `use_running_average` is passed only if the replacement takes
    it.

    Variables of the same path and shape are kept: scale and bias, and statistics if
    both normalizers have them. Other variables are initialized or dropped.

    Args:
      model: The model, which does not change. No part of it may use `nn.jit`, because a
        part that was traced before would not change. Compile the returned function.
      replacements: A dict from the class of a normalizer to a function that takes the
        module and returns its replacement, such as
        `{BatchNorm: lambda norm: GroupNorm(num_groups=8)}`. The first class of which a
        module is an instance applies.
      variables: Variables of the model: {"params": ..., "batch_stats": ...}.
      *args: Arguments of the model, for the shapes of new variables.
      rngs: Keys for `model.init`, which creates new variables; by default the key 0.
      **kwargs: Keyword arguments of the model.

    Returns:
      A function that replaces `model.apply`, and its variables. (For a new model,
      `replaced(model.init, replacements)` replaces `model.init`.)

    Raises:
      TypeError: If the model is not a Linen module, `variables` is not a dict, a
        replacement is not a function, or it does not return a module that takes the
        arguments of the call.
      ValueError: If the model has no normalizer of these classes, or `variables` lacks
        a variable to keep.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxnorm.linen
      >>> model = nn.Sequential([nn.Dense(8), nn.BatchNorm(use_running_average=False)])
      >>> x = jnp.arange(6.0).reshape(2, 3)
      >>> variables = jax.jit(model.init)(jax.random.key(0), x)
      >>> apply, variables = jaxnorm.linen.replace_norms(
      ...     model,
      ...     {nn.BatchNorm: lambda norm: jaxnorm.linen.GroupNorm(num_groups=2)},
      ...     variables,
      ...     x,
      ... )
      >>> jax.tree.map(jnp.shape, variables)["params"]["layers_1"]
      {'bias': (8,), 'scale': (8,)}
      >>> apply(variables, x).shape, list(variables)
      ((2, 8), ['params'])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a flax.linen.Module, got {type(model).__qualname__}. For "
            "an NNX model, call jaxnorm.nnx.replace_norms."
        )
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"variables must be a dict of collections, got {type(variables).__name__}. "
            'Pass {"params": ..., "batch_stats": ...} of the model.'
        )
    found: list[str] = []
    init = _intercept(model.init, replacements, found)
    rngs = jax.random.key(0) if rngs is None else rngs
    new = jax.jit(lambda: init(rngs, *args, **kwargs))()
    if not found:
        raise ValueError(
            f"model must call normalizers of {[c.__name__ for c in replacements]}, got "
            "none. Check that the model uses these classes, and no nn.jit: a part that "
            "was traced before does not change."
        )
    own_init: Callable[..., Any] = model.init
    old = jax.eval_shape(lambda: own_init(rngs, *args, **kwargs))
    _check_kept(variables, old, new)
    return replaced(model.apply, replacements), _keep(variables, new)


def replaced(
    function: Callable[..., Any], replacements: Replacements
) -> Callable[..., Any]:
    """Returns `model.init` or `model.apply` with other normalizers.

    Args:
      function: The method, or any function that calls modules. No part of it may be
        compiled, because a part that was traced before would not change.
      replacements: As in `replace_norms`, which also converts variables.

    Raises:
      TypeError: If the function is compiled or is a model, or a replacement is not a
        function.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.BatchNorm(use_running_average=False)
      >>> init = jaxnorm.linen.replaced(
      ...     norm.init, {jaxnorm.linen.BatchNorm: lambda norm: jaxnorm.linen.RMSNorm()}
      ... )
      >>> jax.eval_shape(init, jax.random.key(0), jnp.ones((4, 2)))
      {'params': {'scale': ShapeDtypeStruct(shape=(2,), dtype=float32)}}
    """
    check_apply(
        *(function, "function", "model.init or model.apply"),
        of_nnx="call jaxnorm.nnx.replace_norms",
    )
    if isinstance(function, jax.stages.Wrapped):
        raise TypeError(
            "function must not be compiled, because code that was traced before would "
            f"not change, got {function}. Compile the result instead."
        )
    return _intercept(function, replacements, [])


def _intercept(
    function: Callable[..., Any], replacements: Replacements, found: list[str]
) -> Callable[..., Any]:
    """Returns a function that calls replacements, and adds their names to `found`."""
    check_replacements(replacements, nn.Module)

    def call(*args: Any, **kwargs: Any) -> Any:
        interceptor = _Interceptor(replacements, found)
        token = _active.set((*_active.get(), interceptor))
        try:
            with nn.intercept_methods(interceptor):
                return function(*args, **kwargs)
        finally:
            _active.reset(token)

    return call


def is_replaced(module: nn.Module) -> bool:
    """Returns whether a call of a module calls its replacement instead."""
    return any(interceptor.replaces(module) for interceptor in _active.get())


class _Interceptor:
    """Calls replacements in the scopes of the modules that they replace."""

    def __init__(self, replacements: Replacements, found: list[str]) -> None:
        self._replacements = replacements
        self._found = found
        # By scope, because repeated calls of a module share its scope.
        self._made: dict[int, tuple[Any, nn.Module]] = {}

    def __call__(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: "InterceptorContext",
    ) -> Any:
        old = context.module
        if context.method_name != "__call__" or not self.replaces(old):
            return call(*args, **kwargs)
        makers = self._replacements.items()
        make = next(make for cls, make in makers if isinstance(old, cls))
        new = self._replacement(old, make)
        bound = inspect.signature(call).bind(*args, **kwargs)
        return self._run(new, old, bound.arguments)

    def replaces(self, module: nn.Module) -> bool:
        """Returns whether a module has a replacement, and is not one itself."""
        is_ours = any(module is new for _, new in self._made.values())
        return isinstance(module, tuple(self._replacements)) and not is_ours

    def _replacement(
        self, old: nn.Module, make: Callable[[Any], nn.Module]
    ) -> nn.Module:
        """Returns the replacement of a module, created once for each scope."""
        scope = old.scope
        if id(scope) not in self._made:
            made = make_replacement(make, old, nn.Module)
            new = made.clone(parent=scope, name=None)
            self._made[id(scope)] = scope, new
        self._found.append(old.name or type(old).__name__)
        return self._made[id(scope)][1]

    def _run(self, new: nn.Module, old: nn.Module, arguments: dict[str, Any]) -> Any:
        """Calls the replacement with the arguments of the old module's call."""
        signature = inspect.signature(type(new).__call__)
        if "use_running_average" not in signature.parameters:
            arguments.pop("use_running_average", None)
        x = arguments.pop(next(iter(arguments), "x"), None)  # whatever its name
        given = {name: v for name, v in arguments.items() if v is not None}
        try:
            signature.bind(new, x, **given)
        except TypeError as error:
            raise TypeError(
                f"{type(new).__name__} in place of {type(old).__name__} must take the "
                f"arguments of its call, {', '.join(['x', *given])}, got {error}. Use "
                "a subclass as replacement, whose __call__ takes these arguments and "
                "passes the right ones to super().__call__."
            ) from None
        return new(x, **given)


_active: ContextVar[tuple[_Interceptor, ...]] = ContextVar("active", default=())


def _check_kept(variables: Mapping[str, Any], old: Any, new: Any) -> None:
    """Checks that no variable to keep is missing or has another shape.

    A variable is kept if the model has it both with and without replacements. A missing
    one would be initialized, so the model would lose what it has learned.
    """
    given, before, after = (
        traverse_util.flatten_dict(jax.tree.map(jnp.shape, nn.meta.unbox(dict(tree))))
        for tree in (variables, old, new)
    )
    for path, shape in before.items():
        kept = path[0] in ("params", "batch_stats") and after.get(path) == shape
        if kept and given.get(path) != shape:
            raise ValueError(
                f"variables must have {'/'.join(path)} with the shape {shape}, as in "
                f"the model, got {given.get(path, 'none')} (the keys are "
                f'{list(variables)}). Pass {{"params": ..., "batch_stats": ...}} of '
                "this model."
            )


def _keep(old: Any, new: Any) -> Any:
    """Returns the new variables, with old values where path and shape agree."""
    if not isinstance(new, Mapping):
        # Partitioning metadata, which only one of them may have, is no difference.
        given, needed = jax.tree.map(jnp.shape, nn.meta.unbox([old, new]))
        same = given == needed
        return old if same else new
    if not isinstance(old, Mapping):
        return dict(new)
    return {
        key: _keep(old[key], value) if key in old else value
        for key, value in new.items()
    }
