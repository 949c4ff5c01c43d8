"""One sample and one near miss, at the least, for every signature."""

# name: (lines it must be found in, lines it must not be found in)
SAMPLES: dict[str, tuple[list[str], list[str]]] = {
    "device_allocation_refused": (
        [
            "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 8.00 GiB total",
            "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB.",
            "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 1.50 GiB.",
            "OutOfMemoryError: ignored",
            "torch.cudatorch.cuda.OutOfMemoryErrortorch.OutOfMemoryError: CUDA out of memory. "
            "Tried to allocate 1.00 GiB.",
            "RuntimeError: MPS backend out of memory (MPS allocated: 9 GB)",
        ],
        [
            "If you run out of memory, lower per_device_train_batch_size.",
            "except torch.cuda.OutOfMemoryError:",
            "RuntimeError: CUDA out of memory. Tried to allocate more than 1EB memory.",
            "to avoid CUDA out of memory errors set PYTORCH_ALLOC_CONF",
            "catches torch.OutOfMemoryError and halves the batch",
            "oom_observer attached",
        ],
    ),
    "resumed_as_another": (
        [
            "__main__.Discontinuity: the checkpoint of step 40 does not go on as it ended: the "
            "loss of its reference rows was 2.100000 when it was saved and is 7.300000 now",
            "Discontinuity: step 41 does not go on as it ended: it is trained again on other "
            "samples",
        ],
        ["the schedule does not go on for ever", "it goes on as it ended"],
    ),
    "device_runtime_out_of_memory": (
        ["RuntimeError: CUDA error: out of memory", "RuntimeError: CUDA error: "
         "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"],
        ["RuntimeError: CUDA error: invalid argument", "CUBLAS_STATUS_SUCCESS"],
    ),
    "absurd_allocation": (
        ["RuntimeError: CUDA out of memory. Tried to allocate more than 1EB memory."],
        ["RuntimeError: CUDA out of memory. Tried to allocate 1.00 GiB."],
    ),
    "cpu_allocator_refused": (
        [
            "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: "
            "can't allocate memory: you tried to allocate 9 bytes. Error code 12 (Cannot",
            "RuntimeError: [enforce fail at CPUAllocator.cpp:64] . DefaultCPUAllocator: "
            "can't allocate memory: you tried to allocate 9 bytes.",
            "RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
        ],
        ["using DefaultCPUAllocator", "RuntimeError: [enforce fail at inline_container.cc:603]",
         "we tried to allocate time for it"],
    ),
    "allocation_failed": (
        ["terminate called after throwing an instance of 'std::bad_alloc'", "MemoryError",
         "OSError: [Errno 12] Cannot allocate memory"],
        ["except MemoryError:", "OSError: [Errno 2] No such file", "std::bad_function_call"],
    ),
    "primitive_not_created": (
        ["RuntimeError: could not create a primitive"],
        ["could not create a primitive type of our own kind of primitve"[:24]],
    ),
    "toolkit_missing": (
        [
            "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA root.",
            "RuntimeError: Ninja is required to load C++ extensions",
            "RuntimeError: Failed to find C compiler. Please specify via CC",
        ],
        ["CUDA_HOME is /usr/local/cuda", "ninja: build stopped: subcommand failed.",
         "C compiler found: gcc"],
    ),
    "thread_refused": (["RuntimeError: can't start new thread"], ["starting new thread"]),
    "kernel_oom_kill": (
        [
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch. Some of the step",
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null)",
            "Out of memory: Killed process 4711 (python3) total-vm:9kB",
            "Memory cgroup out of memory: Killed process 4711 (python3)",
            "srun: error: node7: task 3: Out Of Memory",
        ],
        [
            "Detected 1 event in StepId",
            "oom_kill_disable 0",
            "out of memory is what we avoid: process 1",
            "memory cgroup created",
            "srun: error: node7: task 3: Exited with exit code 1",
        ],
    ),
    "killed_outright": (
        ["  traceback : Signal 9 (SIGKILL) received by PID 4711", "  4%|# | 2/47 [00:09]Killed",
         "job.sh: line 7: 4711 Killed                  python train.py",
         "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed."],
        ["  traceback : Signal 15 (SIGTERM) received by PID 4711", "Killed the old server",
         "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Terminated.",
         "exits with return code = -15"],
    ),
    "shared_memory_exhausted": (
        ["ERROR: Unexpected bus error encountered in worker. This might be caused by"],
        ["bus bandwidth encountered: 3 GB/s"],
    ),
    "tensors_on_two_devices": (
        ["RuntimeError: Expected all tensors to be on the same device, but found at least two",
         "RuntimeError: Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) "
         "should be the same"],
        ["all tensors are on the same device",
         "RuntimeError: Input type (torch.cuda.FloatTensor) and weight type "
         "(torch.cuda.HalfTensor) should be the same"],
    ),
    "offload_optimizer_refused": (
        ["ZeRORuntimeException: You are using ZeRO-Offload with a client provided optimizer (x)"],
        ["[INFO] [config.py:958:print]   zero_force_ds_cpu_optimizer .. True"],
    ),
    "offload_op_missing": (
        ["RuntimeError: Error building extension 'cpu_adam'"],
        ["RuntimeError: Error building extension 'fused_adam'"],
    ),
    "kernel_missing_for_dtype": (
        ["RuntimeError: \"LayerNormKernelImpl\" not implemented for 'Half'",
         "RuntimeError: linalg.inv: Low precision dtypes not supported. Got BFloat16"],
        ["NotImplementedError: this is not implemented for half of the users",
         "low precision dtypes are supported"],
    ),
    "dtypes_meet": (
        ["RuntimeError: mat1 and mat2 must have the same dtype, but got Half and Float"],
        ["RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x4 and 3x3)"],
    ),
    "port_taken": (
        ["DistNetworkError: The server socket has failed to listen on any local network address. "
         "port: 29500, code: -98, name: EADDRINUSE, message: address already in use"],
        ["the server socket listens on port 29500"],
    ),
    "store_unreachable": (
        ["RuntimeError: Gloo connectFullMesh failed with [../gloo/transport/tcp/pair.cc:144]"],
        ["connectFullMesh finished"],
    ),
    "peer_lost": (
        ["RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by "
         "peer [127.0.0.1]:4711"],
        ["connection closed after the download"],
    ),
    "launcher_reports_death": (
        ["torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
         "subprocess.CalledProcessError: Command 'x' returned non-zero exit status 1."],
        ["all children are well", "the called process ended"],
    ),
    "collective_timed_out": (
        ["[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)"],
        ["set the collective operation timeout to 1800"],
    ),
    "loss_is_nan": (
        ["{'loss': nan, 'grad_norm': nan}", "step 3 train_loss: nan"],
        ["{'loss': 1.2, 'nan_check': True}", "loss: nanometre"],
    ),
    "no_space": (["OSError: [Errno 28] No space left on device"], ["there is space on the device"]),
    "deepspeed_config_refused": (
        ["AssertionError: Check batch related parameters. train_batch_size is not equal to 10"],
        ["[INFO] [config.py:958:print]   train_batch_size ........ 10"],
    ),
    "arguments_refused": (
        ["train.py: error: unrecognized arguments: --lerning_rate",
         "train.py: error: argument --bf16: invalid choice: 'yes'"],
        ["train.py: error while copying", "arguments: --learning_rate"],
    ),
    "launched_without_launcher": (["KeyError: 'RANK'"], ["KeyError: 'ranking'"]),
    "package_missing": (
        ["ModuleNotFoundError: No module named 'peft'"],
        ["the module named peft was found"],
    ),
    "scheduler_ended_job": (
        ["slurmstepd: error: *** JOB 7 ON node7 CANCELLED AT 2031-01-01T00:00:00 DUE TO TIME "
         "LIMIT ***"],
        ["slurmstepd: error: *** JOB 7 ON node7 CANCELLED AT 2031-01-01T00:00:00 ***"],
    ),
    "interrupted": (["KeyboardInterrupt", "KeyboardInterrupt: "], ["except KeyboardInterrupt:",
                     "handles KeyboardInterrupt gracefully"]),
    "native_crash": (["Fatal Python error: Segmentation fault"], ["segmentation of the image"]),
    "unnamed_exception": (
        ["ValueError: surprising", "torch.nn.modules.module.ModuleAttributeError: x",
         "AssertionError"],
        ["    raise ValueError(x)", "INFO: ValueError: was handled", "Error: 3 of 4"],
    ),
    "raised_in_offloaded_clipping": (
        ['  File "/v/deepspeed/runtime/zero/stage3.py", line 2117, in unscale_and_clip_grads'],
        ['  File "/v/deepspeed/runtime/zero/stage3.py", line 2117, in step'],
    ),
    "launcher_names_rank": (
        ["  rank      : 3 (local_rank: 3)", "E0101 failed (exitcode: 1) local_rank: 3 (pid: 4711)"],
        ["  rank      : high", "local_rank: 3 is on node 7"],
    ),
    "bus_error": (["train.sh: line 4:  4711 Bus error               (core dumped) python train.py"],
                  ["the bus errors are counted"]),
    "map_worker_died": (
        ["RuntimeError: One of the subprocesses has abruptly died during map operation."],
        ["the map operation died down"],
    ),
    "refused_while_reading_configuration": (
        ['  File "/venv/lib/python3.11/argparse.py", line 2582, in parse_args'],
        ['  File "/home/user/arguments.py", line 2582, in parse_args'],
    ),
    "run_completed": (
        ["{'train_runtime': 3.2, 'train_loss': 1.0}"],
        ["the runtime of train is long"],
    ),
    "pinning": (
        ["cudaHostAlloc failed with error 2",
         "at /pytorch/aten/src/ATen/cuda/CachingHostAllocator.cpp:42"],
        ["dataloader_pin_memory=True", "loader = DataLoader(rows, pin_memory=True)",
         "set pin_memory to False where cudaHostAllocMapped is not supported"],
    ),
    "frame_in_pinning": (
        ['  File "/v/torch/utils/data/_utils/pin_memory.py", line 98, in pin_memory'],
        ['  File "/v/torch/utils/data/_utils/worker.py", line 98, in pin_memory'],
    ),
    "launch_started": (
        ["nohup: ignoring input",
         "[2031-01-01 00:00:00,000] [INFO] [runner.py:570:main] cmd = /usr/bin/python3 -u -m x",
         "+ deepspeed --num_gpus 2 train.py"],
        ["nohup is ignoring nothing", "[2031-01-01 00:00:00,000] [INFO] [launch.py:1:main] x",
         "1 + python 3"],
    ),
    "command_typed": (
        ["(base) user@node7:~/work$ python train.py --lr 1", "root@box:/w# deepspeed train.py"],
        ["# python train.py", "it costs 5 $ to run python"],
    ),
    "ranks_restarted": (
        ["[default] Worker group FAILED. 2/3 attempts left; will restart worker group"],
        ["the group of workers was started"],
    ),
}  # fmt: skip

# name: (a module whose frames it must be found in, one whose frames it must not be found in)
FRAMES = {
    "raised_in_quantization": ("bitsandbytes/functional.py", "bitsandbytes_notes/functional.py"),
    "raised_in_data": ("datasets/arrow_dataset.py", "datasets/dataset_dict.py"),
    "raised_in_network": ("urllib3/connection.py", "urlwatch/connection.py"),
    "raised_in_build": ("torch/utils/cpp_extension.py", "torch/utils/cpp_backtrace.py"),
    "raised_in_checkpoint": (
        "torch/distributed/checkpoint/planner.py",
        "torch/distributed/launch.py",
    ),
    "raised_in_offload": ("accelerate/big_modeling.py", "accelerate/hooks.py"),
    "raised_in_rendezvous": ("torch/distributed/rendezvous.py", "torch/distributed/run.py"),
    "raised_at_the_driver": ("pynvml/nvml.py", "nvme/nvml.py"),
    "raised_while_importing": (
        "transformers/utils/import_utils.py",
        "transformers/utils/logging.py",
    ),
}
SAMPLES |= {
    name: tuple([f'  File "/v/lib/site-packages/{path}", line 3, in go'] for path in paths)  # type: ignore[misc]
    for name, paths in FRAMES.items()
}
