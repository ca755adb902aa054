"""The laboratory: artefacts are made once, stored under the address of what made them, and never changed."""

import logging

# On every start, in every worker, these say which kernels a machine lacks: nobody asked for them.
for _library in ("torchao", "bitsandbytes", "torch.utils._pytree"):
    logging.getLogger(_library).setLevel(logging.ERROR)
