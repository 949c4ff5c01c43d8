"""Trains to its end while it prints nearly every word a failure could use."""

import logging
import sys

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
log = logging.getLogger("training")
log.warning("3 pytorch allocator cache flushes since last step. this happens under high memory")
log.warning("PYTORCH_CUDA_ALLOC_CONF is deprecated, use PYTORCH_ALLOC_CONF instead")
log.info("if you run out of memory (OOM), lower the batch size; SIGTERM saves; nan_check=True")
for step in range(4):
    print(f"\r {step * 25}%|##  | {step}/4 [00:0{step}<00:01, 1.0it/s]", end="", file=sys.stderr)
    print({"loss": 2.0 - step / 4, "grad_norm": 0.5, "epoch": step}, flush=True)
    if step == 1:
        try:
            raise ConnectionError("Max retries exceeded with url")
        except ConnectionError:
            log.exception("an error that is survived, Traceback and all")
log.info("[Rank 0] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 65536")
print({"train_runtime": 12.3, "train_samples_per_second": 4.0, "train_loss": 1.6})
print("WARNING: destroy_process_group() was not called before program exit")
