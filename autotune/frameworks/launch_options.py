"""The launchers people type in front of a program: which of their options take a value."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["torchrun", "deepspeed", "accelerate"]


@dataclass(frozen=True)
class Launcher:
    """One launcher's options, by name with underscores and without leading dashes.

    Sources: torch/distributed/run.py and launch.py (torch 2.13), deepspeed/launcher/runner.py
    (0.19.8), accelerate/commands/launch.py (1.15); a test compares them with the installed ones.
    """

    flags: frozenset[str]
    valued: frozenset[str]
    families: str = "(?!)"  # pattern of further names that take a value

    def takes(self, name: str) -> bool | None:
        """Return whether this option takes a value; None for a name the launcher does not have."""
        if name in self.flags:
            return False
        if name in self.valued or re.fullmatch(self.families, name):
            return True
        return None


TORCHRUN = Launcher(
    frozenset(
        {"standalone", "m", "module", "no_python", "run_path", "virtual_local_rank", "use_env"}
    ),
    frozenset(
        {
            "nnodes", "nproc_per_node", "rdzv_backend", "rdzv_endpoint", "rdzv_id", "rdzv_conf",
            "max_restarts", "monitor_interval", "start_method", "event_log_handler", "role",
            "log_dir", "r", "redirects", "t", "tee", "local_ranks_filter",
            "duplicate_stdout_filters", "duplicate_stderr_filters", "node_rank", "master_addr",
            "master_port", "local_addr", "logs_specs", "numa_binding", "signals_to_handle",
            "shutdown_timeout",
        }
    ),
)  # fmt: skip
DEEPSPEED = Launcher(
    frozenset(
        {
            "module", "no_python", "no_local_rank", "no_ssh", "no_ssh_check", "force_multi",
            "save_pid", "bind_cores_to_rank", "q", "quiet", "elastic_training",
        }
    ),
    frozenset(
        {
            "H", "hostfile", "i", "include", "e", "exclude", "num_nodes", "num_gpus",
            "num_accelerators", "master_port", "master_addr", "node_rank", "launcher",
            "launcher_args", "enable_each_rank_log", "autotuning", "min_elastic_nodes",
            "max_elastic_nodes", "bind_core_list", "ssh_port", "venv_script", "log_level",
        }
    ),
)  # fmt: skip
ACCELERATE = Launcher(
    frozenset(
        {
            "quiet", "q", "cpu", "multi_gpu", "tpu", "enable_cpu_affinity",
            "dynamo_use_fullgraph", "dynamo_use_dynamic", "dynamo_use_regional_compilation",
            "use_deepspeed", "use_fsdp", "use_parallelism_config", "use_megatron_lm",
            "same_network", "m", "module", "no_python", "tpu_cluster", "no_tpu_cluster",
            "tpu_use_sudo", "downcast_bf16", "fp8_use_autocast_during_eval", "debug",
        }
    ),
    frozenset(
        {
            "config_file", "mixed_precision", "num_processes", "num_machines",
            "num_cpu_threads_per_process", "dynamo_backend", "dynamo_mode", "gpu_ids",
            "machine_rank", "main_process_ip", "main_process_port", "t", "tee", "log_dir", "role",
            "rdzv_backend", "rdzv_conf", "max_restarts", "monitor_interval", "vm", "env",
            "main_training_function", "zero_stage", "gradient_accumulation_steps",
            "gradient_clipping", "zero3_init_flag", "zero3_save_16bit_model", "mpirun_hostfile",
            "aws_access_key_id", "aws_secret_access_key",
        }
    ),
    "(offload|deepspeed|fsdp|megatron_lm|fp8|parallelism_config)_.*",
)  # fmt: skip
LAUNCHERS: dict[Kind, Launcher] = {
    "torchrun": TORCHRUN,
    "deepspeed": DEEPSPEED,
    "accelerate": ACCELERATE,
}
