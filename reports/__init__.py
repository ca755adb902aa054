"""From the records of a run to verdict tables, reports and the gate; imports neither torch nor layerwise."""
