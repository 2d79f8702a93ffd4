"""Every normalizer in float64 NumPy: the equations, with nothing clever.

With the arguments of the functions that they stand for. A mask is weights (bool and
integer: 0 and 1), and weighs the moments; a masked element that is not finite comes
out as the mean would, and an example or a group without valid elements as `bias`.
Examples lie along the first axis that is not a feature axis, space along the others.
`directional` gives derivatives.
"""

from oracles.batch import *
from oracles.batch_family import *
from oracles.mixtures import *
from oracles.parts import directional as directional
from oracles.parts import error as error
from oracles.parts import wide as wide
from oracles.sample import *
from oracles.segments import *
from oracles.weight import *
