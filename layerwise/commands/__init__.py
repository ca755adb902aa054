"""What is done at the command line: `layerwise compress` and `layerwise inspect`."""

import layerwise.lab  # noqa: F401  # first of all, since it quiets libraries that speak when they are imported
