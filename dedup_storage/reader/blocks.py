from __future__ import annotations

import torch
from torch.utils.data import get_worker_info


def allocate(num_bytes):
    if get_worker_info() is None or num_bytes == 0:
        t = torch.empty(num_bytes, dtype=torch.uint8)
    else:
        storage = torch.UntypedStorage._new_shared(num_bytes)
        t = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (num_bytes,), (1,))
    return t, t.numpy()
