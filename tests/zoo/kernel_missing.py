"""Calls a linear algebra operation that has no kernel for bfloat16 on the CPU."""

import torch

torch.linalg.inv(torch.eye(4, dtype=torch.bfloat16))
