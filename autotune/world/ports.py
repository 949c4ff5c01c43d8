"""What ranks need to find each other on this machine, and, if asked, whether a hub answers."""

import contextlib
import http.client
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from autotune.core.doctor.facts import Network
from autotune.world.throwaway import Late, in_time

# torch's and DeepSpeed's default, and that of a launch.sh of ours.
RENDEZVOUS = (29500, 29555)
NAME_SECONDS = 3.0
HUB_SECONDS = 15.0
HUB = "https://huggingface.co"
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def look_at_network(ask_hub: bool) -> Network:
    """Return what was found; nothing leaves the machine but the lookup of our own name."""
    name = socket.gethostname()
    resolves, late = _resolves(name)
    return Network(
        loopback=_loopback(),
        ephemeral=_ephemeral(),
        taken=tuple(port for port in sorted(_wellknown()) if is_taken(port)),
        name=name,
        resolves=resolves,
        name_servers_late=late,
        hub=_hub() if ask_hub else None,
    )


def _wellknown() -> set[int]:
    named = os.environ.get("MASTER_PORT", "")
    return {*RENDEZVOUS, *((int(named),) if named.isdigit() and int(named) < 65536 else ())}


def is_taken(port: int) -> bool:
    """Return whether somebody listens on a TCP port of this machine."""
    with socket.socket() as probe:
        # One that only waits out its last connection is free to whoever asks as torch does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _loopback() -> bool:
    with contextlib.suppress(OSError), socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        with socket.create_connection(server.getsockname(), timeout=2):
            return True
    return False


def _ephemeral() -> tuple[int, int] | None:
    try:
        low, high = _RANGE.read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return None


def _resolves(name: str) -> tuple[bool | None, bool]:
    """Return whether our own name is known, and whether the answer was late."""
    try:
        in_time(lambda: bool(socket.getaddrinfo(name, None)), NAME_SECONDS)
    except Late:
        return None, True
    except OSError:
        return False, False
    return True, False


def _hub() -> str:
    """Return why the hub cannot be reached, or nothing."""
    try:
        in_time(_greet_hub, HUB_SECONDS)
    except Late as error:
        return str(error)
    except OSError as error:
        return str(error)
    return ""


def _greet_hub() -> bool:
    place = urlsplit(os.environ.get("HF_ENDPOINT") or HUB)
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = kind(place.hostname or "", place.port, timeout=HUB_SECONDS)
    connection.request("HEAD", "/")
    return connection.getresponse().status > 0
