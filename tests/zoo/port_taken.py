"""Holds a port and then asks torch.distributed to rendezvous on it."""

import socket

import torch.distributed as dist

holder = socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET)
holder.bind(("", 0))
holder.listen()
port = holder.getsockname()[1]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
