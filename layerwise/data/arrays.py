"""Names for the kinds of array that the folders hand to each other."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.integer[Any]]
FloatArray: TypeAlias = NDArray[np.floating[Any]]
StrArray: TypeAlias = NDArray[np.str_]
