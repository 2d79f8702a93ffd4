"""The devices to compile for, none of which need to exist on this machine.

The compilers for TPUs and NVIDIA GPUs run on any machine: they compile for a described
topology. JAX uses only the CPU meanwhile, so that an existing accelerator is left
alone.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Sequence

import jax
from jax.experimental import topologies


class TargetError(Exception):
    """A program cannot be compiled for a target on this machine."""


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A kind of TPU.

    Attributes:
      few: a topology of at least four devices.
      many: a topology of 256 devices.
    """

    few: str
    many: str

    package = "libtpu"
    extra = "tpu"
    memory = None  # the compiler rejects programs that do not fit

    def devices(self, number: int) -> Sequence[jax.Device]:
        """Returns at least `number` devices."""
        # Without these, the library asks a cloud server for the TPU of this machine.
        os.environ["TPU_SKIP_MDS_QUERY"] = "1"
        os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
        os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-4"
        # Another process may use the TPU, which is not needed here.
        os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
        name = self.few if number <= 4 else self.many
        return topologies.get_topology_desc(name, platform="tpu").devices


@dataclasses.dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU, described by its data sheet.

    Attributes:
      name: name in the driver.
      capability: major number of the compute capability.
      cores: number of streaming multiprocessors.
      lanes: float32 units per multiprocessor.
      shared_memory: shared memory per multiprocessor, in KiB.
      cache: second-level cache, in MiB.
      bandwidth: bandwidth of the main memory, in GB/s.
      clock: clock rate, in GHz.
    """

    name: str
    capability: int
    cores: int
    lanes: int
    shared_memory: int
    cache: int
    bandwidth: int
    clock: float

    package = "jax_cuda12_plugin"
    extra = "gpu"
    memory = 79 * 2**30  # bytes, the same for all GPUs below

    def devices(self, number: int) -> Sequence[jax.Device]:
        """Returns at least `number` devices, at most eight per machine."""
        machines, each = -(-number // 8), min(number, 8)
        return topologies.get_topology_desc(
            "unnamed",
            platform="cuda",
            target_config=self._description(),
            topology=f"{machines}x1x{each}",
        ).devices

    def _description(self) -> str:
        """Returns XLA's `GpuTargetConfigProto` as text."""
        return f"""
            platform_name: "CUDA"
            device_description_str: "{self.name}"
            dnn_version_info {{ major: 9 minor: 7 }}
            runtime_version {{ major: 12 minor: 8 }}
            gpu_device_info {{
              cuda_compute_capability {{ major: {self.capability} }}
              core_count: {self.cores}
              fpus_per_core: {self.lanes}
              clock_rate_ghz: {self.clock}
              memory_bandwidth: {self.bandwidth * 10**9}
              device_memory_size: {self.memory}
              l2_cache_size: {self.cache * 2**20}
              shared_memory_per_core: {self.shared_memory * 2**10}
              shared_memory_per_block_optin: {(self.shared_memory - 1) * 2**10}
              shared_memory_per_block: 49152
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
              threads_per_core_limit: 2048
              threads_per_block_limit: 1024
              threads_per_warp: 32
              block_dim_limit_x: 2147483647
              block_dim_limit_y: 65535
              block_dim_limit_z: 65535
            }}"""


@dataclasses.dataclass(frozen=True)
class Cpu:
    """The CPU of this machine."""

    package = "jaxlib"
    extra = ""
    memory = None

    def devices(self, number: int) -> Sequence[jax.Device]:
        """Returns at least `number` simulated devices."""
        del number
        return jax.devices("cpu")


TARGETS = {
    "v4:2x2x1": Tpu("v4:2x2x1", "v4:4x4x8"),  # two devices per chip
    "v5e:2x2": Tpu("v5e:2x2", "v5e:16x16"),
    "v6e:2x2": Tpu("v6e:2x2", "v6e:16x16"),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 164, 40, 2039, 1.41),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 228, 50, 3352, 1.98),
    "cpu": Cpu(),
}


def compile_only_devices(name: str, number: int) -> Sequence[jax.Device]:
    """Returns devices of a target, for compilation only.

    Args:
      name: a name in `TARGETS`.
      number: number of devices, up to 256.

    Raises:
      TargetError: the compiler of the target is not installed, or does not start.
    """
    target = TARGETS[name]
    if importlib.util.find_spec(target.package) is None:
        raise TargetError(
            f"compiling for {name} needs the package {target.package}, which is not "
            f"installed: pip install -e '.[{target.extra}]'"
        )
    try:
        return target.devices(number)[:number]
    except (RuntimeError, NotImplementedError) as error:
        raise TargetError(f"the compiler for {name} does not start: {error}") from error
