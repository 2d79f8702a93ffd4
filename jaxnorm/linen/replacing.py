"""Models whose normalizers are replaced by others, with their variables."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
from flax import linen as nn
from jax import Array
from jax import numpy as jnp

from jaxnorm._layers.replacements import check_replacements, make_replacement

if TYPE_CHECKING:
    from flax.linen.module import InterceptorContext

Replacements = Mapping[type[nn.Module], Callable[[Any], nn.Module]]
"""By the class of a normalizer: what makes another of one."""


def replace_norms(
    model: nn.Module,
    replacements: Replacements,
    variables: Mapping[str, Any],
    *args: Any,
    rngs: Array | Mapping[str, Array] | None = None,
    **kwargs: Any,
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Returns a model's `apply` with other normalizers, and variables for it.

    Batch norm by group norm, by ghost batch norm, or by one with an `axis_name`;
    Flax's by those of this library. A normalizer of one of the classes computes what
    its replacement does, with the variables at its own path. The arguments of its call
    are handed on, `use_running_average` only where the replacement takes it.

    Variables of the same path and shape are kept, scale and bias above all, and
    statistics where both have them. Others are initialized, or dropped.

    Args:
      model: The model, which stays as it is; without `nn.jit` around any part, since
        what was traced before stays as it was. Compile what comes back.
      replacements: `{BatchNorm: lambda norm: GroupNorm(num_groups=8)}`: functions of
        the module that they replace, by its class. The first class that it is an
        instance of counts.
      variables: The model's.
      *args: Arguments of the model, for the shapes of new variables.
      rngs: For `model.init`, which makes them; by default a key of 0.
      **kwargs: Keyword arguments of the model.

    Returns:
      A function in place of `model.apply`, and the variables. (`model.init` of a new
      model is `replaced(model.init, replacements)`.)

    Raises:
      TypeError: If the model is not a Linen module, a replacement is not a function,
        one returns no module, or a module that does not take the arguments of the call.
      ValueError: If the model has no normalizer of these classes.

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
            f"model must be a flax.linen.Module, got {type(model).__qualname__}. Of an "
            "NNX model it is jaxnorm.nnx.replace_norms."
        )
    found: list[str] = []
    init = _with(model.init, replacements, found)
    rngs = jax.random.key(0) if rngs is None else rngs
    new = jax.jit(lambda: init(rngs, *args, **kwargs))()
    if not found:
        raise ValueError(
            f"model must have normalizers of {[c.__name__ for c in replacements]}, and "
            "its call had none. Are these the classes that it is made of? A part "
            "within nn.jit stays as it was traced before."
        )
    return replaced(model.apply, replacements), _keep(variables, new)


def replaced(
    function: Callable[..., Any], replacements: Replacements
) -> Callable[..., Any]:
    """Returns `model.init` or `model.apply` with other normalizers.

    Args:
      function: The method, or any function that calls modules; compiled in no part,
        since what was traced before stays as it was.
      replacements: As in `replace_norms`, which brings variables along.

    Raises:
      TypeError: If the function is compiled, or a replacement is not a function.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.BatchNorm(use_running_average=False)
      >>> init = jaxnorm.linen.replaced(
      ...     norm.init, {jaxnorm.linen.BatchNorm: lambda norm: jaxnorm.linen.RMSNorm()}
      ... )
      >>> jax.eval_shape(init, jax.random.key(0), jnp.ones((4, 2)))
      {'params': {'scale': ShapeDtypeStruct(shape=(2,), dtype=float32)}}
    """
    if isinstance(function, jax.stages.Wrapped):
        raise TypeError(
            "function must not be compiled, since what was traced before stays as it "
            f"was, got {function}. Compile what comes back."
        )
    return _with(function, replacements, [])


def _with(
    function: Callable[..., Any], replacements: Replacements, found: list[str]
) -> Callable[..., Any]:
    check_replacements(replacements, nn.Module)

    def call(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(_Interceptor(replacements, found)):
            return function(*args, **kwargs)

    return call


class _Interceptor:
    """Calls replacements in the scopes of the modules that they replace."""

    def __init__(self, replacements: Replacements, found: list[str]) -> None:
        self._replacements = replacements
        self._found = found
        # By the scope, which a module that is called again shares with itself.
        self._made: dict[int, tuple[Any, nn.Module]] = {}

    def __call__(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: "InterceptorContext",
    ) -> Any:
        old = context.module
        if context.method_name != "__call__" or self._is_ours(old):
            return call(*args, **kwargs)
        for cls, make in self._replacements.items():
            if isinstance(old, cls):
                new = self._replacement(old, make)
                bound = inspect.signature(call).bind(*args, **kwargs)
                return self._run(new, old, bound.arguments)
        return call(*args, **kwargs)

    def _is_ours(self, module: nn.Module) -> bool:
        return any(module is new for _, new in self._made.values())

    def _replacement(
        self, old: nn.Module, make: Callable[[Any], nn.Module]
    ) -> nn.Module:
        scope = old.scope
        if id(scope) not in self._made:
            made = make_replacement(make, old, nn.Module)
            new = made.clone(parent=scope, name=None)
            self._made[id(scope)] = scope, new
        self._found.append(old.name or type(old).__name__)
        return self._made[id(scope)][1]

    def _run(self, new: nn.Module, old: nn.Module, arguments: dict[str, Any]) -> Any:
        signature = inspect.signature(type(new).__call__)
        if "use_running_average" not in signature.parameters:
            arguments.pop("use_running_average", None)
        x = arguments.pop(next(iter(arguments), "x"), None)  # by whatever name
        given = {name: v for name, v in arguments.items() if v is not None}
        try:
            signature.bind(new, x, **given)
        except TypeError as error:
            raise TypeError(
                f"{type(new).__name__} in place of {type(old).__name__} must take the "
                f"arguments of its call, {', '.join(['x', *given])}, got {error}. Let "
                "the replacement be a subclass whose __call__ takes them, and calls "
                "super().__call__ with its own."
            ) from None
        return new(x, **given)


def _keep(old: Any, new: Any) -> Any:
    """Returns the new variables, those of the old that have their shapes instead."""
    if not isinstance(new, Mapping):
        same = jax.tree.map(jnp.shape, old) == jax.tree.map(jnp.shape, new)
        return old if same else new
    if not isinstance(old, Mapping):
        return dict(new)
    return {
        key: _keep(old[key], value) if key in old else value
        for key, value in new.items()
    }
