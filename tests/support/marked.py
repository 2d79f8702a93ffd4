"""The leaves that a mask over parameters selects."""

import jax


def marked(mask):
    """The paths of the leaves that are true."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_flatten_with_path(mask)[0]
        if leaf
    }
