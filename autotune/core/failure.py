"""The closed list of what can end a training attempt, and the part a sign plays in it."""

from enum import Enum


class Failure(str, Enum):
    """What a diagnosis names; every policy must have an answer for each of them."""

    DEVICE_OOM = "device_oom"
    DEVICE_OOM_FRAGMENTATION = "device_oom_fragmentation"
    DEVICE_OOM_COTENANT = "device_oom_cotenant"
    HOST_OOM = "host_oom"
    OFFLOAD_DEVICE = "offload_device"
    DTYPE_KERNEL_GAP = "dtype_kernel_gap"
    QUANTIZATION_CONFLICT = "quantization_conflict"
    CHECKPOINT_MISMATCH = "checkpoint_mismatch"
    CHECKPOINT_CORRUPT = "checkpoint_corrupt"
    DISK_FULL = "disk_full"
    COLLECTIVE_TIMEOUT = "collective_timeout"
    COLLECTIVE_ERROR = "collective_error"
    RENDEZVOUS_PORT = "rendezvous_port"
    NUMERIC_DIVERGENCE = "numeric_divergence"
    GPU_HARDWARE = "gpu_hardware"
    ILLEGAL_ACCESS = "illegal_access"
    DRIVER_MISMATCH = "driver_mismatch"
    OP_BUILD = "op_build"
    MISSING_DEPENDENCY = "missing_dependency"
    CONFIG_ERROR = "config_error"
    DATA_ERROR = "data_error"
    NETWORK_HUB = "network_hub"
    PREEMPTED = "preempted"
    USER_INTERRUPT = "user_interrupt"
    USER_CODE_ERROR = "user_code_error"
    HANG = "hang"
    NONE = "none"
    UNKNOWN = "unknown"


class Role(str, Enum):
    """What a matched sign may be taken to prove.

    A root can be the cause; a cascade is what others show when somebody else died; confirms
    supports a cause found elsewhere; context is background and proves nothing.
    """

    ROOT = "root"
    CASCADE = "cascade"
    CONFIRMS = "confirms"
    CONTEXT = "context"


class Phase(str, Enum):
    """Where in its life the training was when something happened to it."""

    LOAD = "load"
    OPTIMIZER_CREATION = "optimizer_creation"
    RESUME = "resume"
    FORWARD = "forward"
    BACKWARD = "backward"
    STEP = "step"
    EVAL = "eval"
    SAVE = "save"
    TRAIN = "train"
    FINISH = "finish"


class Trait(str, Enum):
    """What a failure is besides its name, where it shows and a remedy turns on it."""

    LEAKING = "leaking"  # memory grew slowly, over many steps, until the end
    REQUEST_EXCEEDS_DEVICE = "request_exceeds_device"  # one request larger than the whole device
    SHARED_MEMORY_FULL = "shared_memory_full"  # /dev/shm was what ran out
    PINNED_MEMORY = "pinned_memory"  # page-locked host memory was what ran out
    UNEXPLAINED_KILL = (
        "unexplained_kill"  # killed outright, while memory was free and none was logged
    )
    PROCESS_LIMIT = "process_limit"  # a limit on processes and threads refused, not memory
    OWN_OPERATION = "own_operation"  # the training's own code called what failed, no layer did
