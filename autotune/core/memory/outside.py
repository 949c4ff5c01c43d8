"""Bytes of a rank that are no tensor of the training: libraries, contexts, workspaces."""

from autotune.core.memory.workload import Workload

# VmData of a rank, torch 2.13, DeepSpeed 0.19.8, transformers 5.23, gloo, one thread (2026-11-21,
# tests/bench/cpu_memory.py): when the group has met and nothing of the model is loaded, and what
# the Trainer, the optimizer and the first passes add to it that is no tensor.
BARE_RANK = 230 << 20
LATER = 197 << 20
# A second thread and each further one, stacks of 8 MiB: 18 to 16 MiB, of 2, 4 and 8 threads.
THREAD = 17 << 20
# cuBLAS keeps a workspace for each handle and stream: 4096 KiB x 2 + 16 KiB x 8 unless
# CUBLAS_WORKSPACE_CONFIG says otherwise (PyTorch's CUDA notes); it comes out of the allocator.
CUBLAS_WORKSPACE = (2 * 4096 + 8 * 16) << 10


def outside(workload: Workload) -> int:
    """Return the bytes of one rank outside its tensors, comparable with its capacity.

    On the CPU it is VmData, which shared mappings (gloo's, /dev/shm) are no part of; what was
    measured of this very machine, `base_bytes`, replaces `BARE_RANK`. On CUDA it is the context;
    cuBLAS's workspace lies in the allocator and counts as a tensor. What NCCL keeps there was
    never measured and is not counted.
    """
    subject = workload.subject
    if subject.device == "cpu":
        return in_training(subject.base_bytes or BARE_RANK) + (subject.threads - 1) * THREAD
    return subject.cuda_context


def in_training(base: int) -> int:
    """Return what a process that takes `base` bytes before its model takes beside its tensors."""
    return base + LATER
