import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: one thread is as fast, and two wait for each other

import torch  # noqa: E402

torch.set_num_threads(1)
