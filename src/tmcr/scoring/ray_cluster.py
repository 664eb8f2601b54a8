"""A Ray cluster to score on: how to reach it, and what of it each worker gets."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tmcr.errors import ConfigError, first_line

_CPUS, _MOST_CPUS = 4, 16  # of a worker: without a GPU; with one, at most
_TIMEOUT = 5.0  # seconds to wait for an answer from an address
_OBJECT_STORE = 256 * 2**20  # bytes of a local cluster's object store; parts pass through it


@dataclass(frozen=True)
class RayOptions:
    """Where and on what to score.

    Attributes:
        address: HOST:PORT or ray://HOST:PORT of a cluster, `auto` for the one this machine belongs to, None for a
            cluster on this machine alone that ends with the run.
        workers: processes, each with a model; None takes as many as the cluster has room for.
        gpus_per_worker: share of a GPU, 0 … 1; None is one GPU where the cluster has any, else none.
        cpus_per_worker: processors, and decoding threads, of each; None takes a fair share of a machine.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    cpus_per_worker: int | None = None


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, connected.

    Raises:
        ConfigError: it is not installed, or there is no cluster at the address.
    """
    # Read when Ray is imported: no reports home, and no quarter of an hour of retries.
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_NUM_REDIS_GET_RETRIES", "1"),
    ):
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray needs an extra: pip install 'tmcr[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    local = address in (None, "local")
    if not local and address != "auto":
        _check_reachable(str(address))
    options: dict[str, Any] = {"address": "local" if local else address, "log_to_driver": False, "logging_level": 50}
    if local:
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        ray.init(**options)
    except Exception as error:  # Ray has many ways to say that it cannot connect
        if local:
            raise ConfigError(f"Ray cannot be started here ({first_line(error)}); score with --engine local") from None
        raise ConfigError(
            f"no Ray cluster can be joined at {address} ({first_line(error)}); start one with 'ray start --head', set "
            "RAY_AUTH_MODE=token for one that asks for a token, or leave out --ray-address to use this machine alone"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ask for an answer: Ray itself takes minutes to give up."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--ray-address {address}: an address is HOST:PORT, ray://HOST:PORT, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"nothing answers at --ray-address {address} ({first_line(error)}); check host and port (HOST:6379 from "
            "a machine of the cluster, ray://HOST:10001 from elsewhere) and that the cluster is up"
        ) from None


def share(nodes: list[dict[str, Any]], options: RayOptions, *, local: bool) -> tuple[int, float, int]:
    """Number of workers, and GPUs and CPUs of each.

    Raises:
        ConfigError: a cluster on this machine has no room for one.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = options.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(machine.get("GPU") for machine in machines) else 0.0
    cpus = options.cpus_per_worker or _cpus(machines, gpus)
    room = sum(
        min([int(machine.get("CPU", 0) // max(1, cpus)), *([int(machine.get("GPU", 0) / gpus + 1e-6)] if gpus else [])])
        for machine in machines
    )
    if room == 0 and local:
        most = {kind: max(machine.get(kind, 0) for machine in machines) for kind in ("CPU", "GPU")}
        raise ConfigError(
            f"this machine has {most['CPU']:g} CPUs and {most['GPU']:g} GPUs, not the {cpus} and {gpus:g} asked for "
            "each worker; lower --workers or --gpus-per-worker, or name a cluster with --ray-address"
        )
    return options.workers or max(1, room), gpus, cpus


def _cpus(machines: list[dict[str, float]], gpus: float) -> int:
    """Processors for each worker: those that belong to its share of a GPU, or a few."""
    shares = [int(machine.get("CPU", 0) * gpus / machine["GPU"]) for machine in machines if machine.get("GPU")]
    if gpus and shares:
        return max(1, min([_MOST_CPUS, *shares]))
    return max(1, min(_CPUS, int(max((machine.get("CPU", 0) for machine in machines), default=1))))
