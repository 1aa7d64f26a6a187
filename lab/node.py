"""One node: a real kubelet, containerd, kube-proxy and a simulated GPU driver in namespaces of their own.

Everything a node writes outside the state folder lands in memory: its mount namespace has a private /run, and an
overlay over /var/lib (the kubelet's device-plugin socket and CNI's results have fixed places there).
"""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab import cgroups, image, network, process
from lab.settings import LabError, Names, Versions, host_paths, index

# The kernel is the machine's, so each node has a file in its place, with records as in /dev/kmsg: see faults/kernel.py.
KERNEL_LOG = "/run/lab/kmsg"
# What the node agent watches by default: a disk of its own that can be filled without harm to the machine.
SMALL_DISK = "/var/lib/internlm2-agent"
SMALL_DISK_MIB = 8
# The kubelet sets these for the whole machine; it finds the values it wants in private files instead.
SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
MOUNTS = """set -e
mount --make-rshared /
cd "$STATE"
mount -t tmpfs -o mode=755 lab /run
mkdir -p /run/lock /run/lab/upper /run/lab/work
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/lab/upper,workdir=/run/lab/work lab /var/lib
case "$STATE/" in /run/*|/var/lib/*) mkdir -p "$STATE"; mount --no-canonicalize --bind . "$STATE";; esac
mkdir -p /var/lib/kubelet/device-plugins "$SMALL_DISK"
mount -t tmpfs -o "mode=755,size=${SMALL_DISK_MIB}m" lab "$SMALL_DISK"
: >"$KERNEL_LOG"
for file in "$STATE/$NODE"/sysctl/*; do
    target=/proc/sys/$(basename "$file" | tr ' ' /)
    if [ -e "$target" ]; then mount --bind "$file" "$target"; fi
done
exec "$@"
"""
CONTAINERD = """version = 2
root = "{folder}/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{folder}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    base_runtime_spec = "{folder}/base-spec.json"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a lab; `all_nodes` are the names of all of them, for the routes."""

    name: str
    names: Names
    versions: Versions
    binaries: dict[str, Path]
    all_nodes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.names.node_dir(self.name)

    @property
    def netns(self) -> str:
        return self.names.netns(self.name)

    @property
    def gpus(self) -> int:
        """How many simulated GPUs it has."""
        return self.versions.gpus_per_node if index(self.name) <= self.versions.gpu_nodes else 0

    @property
    def daemons(self) -> tuple[str, ...]:
        return ("containerd", *self._daemons())

    @property
    def gpu_socket(self) -> Path:
        """Return where the simulated driver is told what to break.

        Raises:
            LabError: the node has no GPUs.
        """
        if not self.gpus:
            raise LabError(f"--node: {self.name} has no GPUs; use one of n1 to n{self.versions.gpu_nodes}")
        return self.folder / "gpu.sock"

    def inside(self, path: str) -> Path:
        """Return a path of the node's own mount namespace as this process reaches it.

        Raises:
            LabError: the node does not run.
        """
        return Path(f"/proc/{self.running('containerd')}/root{path}")

    def pid(self, daemon: str) -> int | None:
        return process.pid_of(f"{self.name}-{daemon}", self.names.state)

    def running(self, daemon: str) -> int:
        """Return the process of one of the node's daemons.

        Raises:
            LabError: the node does not run.
        """
        if (pid := self.pid(daemon)) is None:
            raise LabError(f"--node: {self.name} does not run; `python -m lab fault heal` brings it back")
        return pid

    def runs(self) -> bool:
        """Return whether all of the node's daemons run."""
        return all(self.pid(daemon) for daemon in self.daemons)

    def prepare(self) -> None:
        """Make namespace, control group and files, and start containerd; whatever was there is swept first."""
        self.stop()
        network.make_node(self.names, self.name, list(self.all_nodes))
        cgroups.make(self.names.cgroup(self.name))
        self._write_files()
        config = str(self.folder / "containerd.toml")
        shell = ["unshare", "--mount", "--propagation", "private", "sh", str(self.folder / "mounts.sh")]
        argv = process.nsenter(self.netns, *shell, "containerd", "-c", config)
        places = {"KERNEL_LOG": KERNEL_LOG, "SMALL_DISK": SMALL_DISK, "SMALL_DISK_MIB": str(SMALL_DISK_MIB)}
        env = {"STATE": str(self.names.state), "NODE": self.name} | places
        process.start(f"{self.name}-containerd", argv, state=self.names.state, env=env)

    def load_images(self) -> None:
        """Wait for containerd and import the lab's images."""
        process.wait_until(
            partial(process.listens, self.folder / "c.sock"), what=f"{self.name}: containerd", seconds=30, every=0.05
        )
        for archive in ("pause.tar", "host.tar"):
            path = str(self.names.state / archive)
            process.run("ctr", "-a", str(self.folder / "c.sock"), "-n", "k8s.io", "images", "import", path)

    def join(self) -> None:
        """Start kubelet, kube-proxy and the simulated GPU driver; the API server answers by now."""
        for name, argv in self._daemons().items():
            inside = process.nsenter(self.netns, *argv, mounts_of=self.pid("containerd"))
            process.start(f"{self.name}-{name}", inside, state=self.names.state)

    def processes(self) -> set[int]:
        """Return every process of the node: daemons, shims, and what runs in its pods."""
        recorded = {pid for daemon in self.daemons if (pid := self.pid(daemon))}
        return recorded | process.in_netns(self.netns) | cgroups.processes(self.names.cgroup(self.name))

    def stop(self) -> None:
        """Kill the node and remove everything it had."""
        process.kill_until_gone(self.processes, what=self.name)
        network.delete(self.netns)
        group = self.names.cgroup(self.name)
        process.wait_until(lambda: cgroups.remove(group), what=f"cgroup {group}", seconds=20, every=0.05)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _daemons(self) -> dict[str, list[str]]:
        folder = self.folder
        daemons = {
            "kubelet": [
                str(self.binaries["kubelet"]),
                f"--config={folder}/kubelet.json",
                f"--kubeconfig={self.names.kubeconfig}",
                f"--root-dir={folder}/kubelet",
                f"--cert-dir={folder}/cert",
                f"--hostname-override={self.name}",
                f"--node-ip={self.names.node_address(self.name)}",
                *(["--node-labels=nvidia.com/gpu.present=true"] if self.gpus else []),
            ],
            "kube-proxy": [str(self.binaries["kube-proxy"]), f"--config={folder}/proxy.json"],
        }
        if self.gpus:
            daemons["simgpu"] = [
                str(self.binaries["simgpu"]),
                f"--node={self.name}",
                f"--gpus={self.gpus}",
                f"--model={self.versions.gpu_model}",
                f"--control={self.gpu_socket}",
            ]
        return daemons

    def _write_files(self) -> None:
        folder = self.folder
        for part in ("cni", "sysctl", "volume-plugins", "pod-logs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for name, value in SYSCTLS.items():
            (folder / "sysctl" / name.replace("/", " ")).write_text(f"{value}\n")
        (folder / "resolv.conf").write_text(f"nameserver {self.names.ROUTER}\n")
        (folder / "mounts.sh").write_text(MOUNTS)
        (folder / "containerd.toml").write_text(CONTAINERD.format(folder=folder, pause=image.PAUSE))
        spec = image.base_spec(json.loads(process.run("ctr", "oci", "spec")), host_paths())
        (folder / "base-spec.json").write_text(json.dumps(spec))
        (folder / "cni" / "10-lab.conflist").write_text(json.dumps(self._cni()))
        (folder / "kubelet.json").write_text(json.dumps(self._kubelet()))
        (folder / "proxy.json").write_text(json.dumps(self._proxy()))

    def _cni(self) -> dict[str, object]:
        # No masquerade: every address of the lab has a route back, so pods see each other's own addresses.
        ranges = [[{"subnet": self.names.node_pod_cidr(self.name)}]]
        address = {
            "type": "host-local",
            "dataDir": f"{self.folder}/ipam",
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": address,
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "0.4.0", "name": "lab", "plugins": [bridge, portmap]}

    def _kubelet(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "0.0.0.0",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.names.cgroup(self.name)}",
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": ["pods"],
            "failSwapOn": False,
            "failCgroupV1": False,
            "oomScoreAdj": 0,
            "clusterDNS": [self.names.DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": f"{self.folder}/resolv.conf",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 6,
            # An operator that faults kill again and again is not a program that crashes when it starts.
            "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
            "containerRuntimeEndpoint": f"unix://{self.folder}/c.sock",
            "podLogsDir": f"{self.folder}/pod-logs",
            "volumePluginDir": f"{self.folder}/volume-plugins",
            "serializeImagePulls": False,
        }

    def _proxy(self) -> dict[str, object]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self.names.kubeconfig)},
            "mode": "iptables",
            "clusterCIDR": self.names.POD_CIDR,
            "hostnameOverride": self.name,
            "bindAddress": self.names.node_address(self.name),
            "oomScoreAdj": 0,
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
