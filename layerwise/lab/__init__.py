"""The laboratory: artefacts are made once, stored under the address of what made them, and never changed."""
