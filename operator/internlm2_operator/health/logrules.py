"""The table of lines in a rank's log: what each means, in the words that libraries really write.

Where two rows fit a line, the earlier one is meant: first what is a symptom whatever else the line says, then causes,
then the general words around them. A log is written by the user's own code: a row says whom a line speaks against,
and no row, whatever its blame, may lead to a cordon, alone or together with other things that a user can write.

Patterns are those of Rust's engine (pydantic's), which takes time linear in the line and knows neither look-around
nor back-references. A cause that ends jobs has the name of its row in `plan/causes.py`.
"""

import enum
from dataclasses import dataclass
from typing import Final

from internlm2_operator.health.verdict import Blame


class Weight(enum.StrEnum):
    """Whether a line tells what happened, or only what it did to somebody else."""

    CAUSE = "cause"
    SYMPTOM = "symptom"


@dataclass(frozen=True, slots=True)
class LogRule:
    """One row: a line that `pattern` is found in means `cause`; `source` names who writes such lines.

    `everywhere` is whose it is instead where all ranks of several nodes wrote the line at once.
    """

    name: str
    pattern: str
    blame: Blame
    cause: str  # CamelCase
    weight: Weight
    source: str
    everywhere: Blame | None = None


_USER, _NODE, _FABRIC, _UNKNOWN, _NOBODY = Blame.USER, Blame.NODE, Blame.FABRIC, Blame.UNKNOWN, Blame.NONE
_CAUSE, _SYMPTOM = Weight.CAUSE, Weight.SYMPTOM

UNANSWERED: Final = "ib-completion"
_PG_NCCL: Final = "PyTorch, ProcessGroupNCCL.cpp"
_CUDART: Final = "CUDA runtime, cudaGetErrorString"
_NCCL: Final = "NCCL, ncclGetErrorString"
_ELASTIC: Final = "torchrun, torch.distributed.elastic"
_LOADER: Final = "PyTorch, torch.utils.data"
_TRAINER: Final = "our trainer"
_BOTO: Final = "botocore"
_ERRNO: Final = "errno(3)"
_KERNEL: Final = "Linux, mm/oom_kill.c"
_XID: Final = "NVIDIA driver, XID catalogue"

# Never the cause while anything else is there: they come first, so that no other word in the line changes that.
_ALWAYS: Final = (
    LogRule("nccl-watchdog-timeout", r"Watchdog caught collective operation timeout",
            _UNKNOWN, "CollectiveTimeout", _SYMPTOM, _PG_NCCL),
    LogRule("nccl-watchdog-stuck", r"watchdog got stuck for \d+ seconds",
            _UNKNOWN, "CollectiveTimeout", _SYMPTOM, _PG_NCCL),
    LogRule("gloo-timeout", r"Timed out waiting \d+ms for (?:send|recv) operation",
            _UNKNOWN, "CollectiveTimeout", _SYMPTOM, "gloo, unbound_buffer.cc"),
    LogRule("monitored-barrier", r"failed to pass monitoredBarrier|reached monitoredBarrier, but received errors",
            _UNKNOWN, "CollectiveTimeout", _SYMPTOM, "PyTorch, ProcessGroupGloo.cpp"),
    LogRule("connection-reset", r"(?i)connection reset by peer|ConnectionResetError",
            _UNKNOWN, "PeerLost", _SYMPTOM, _ERRNO),
    LogRule("peer-closed", r"(?i)connection closed by (?:remote )?peer",
            _UNKNOWN, "PeerLost", _SYMPTOM, "gloo, pair.cc; NCCL, socket.cc"),
    LogRule("nccl-remote", r"ncclRemoteError",
            _UNKNOWN, "PeerLost", _SYMPTOM, _NCCL),
    LogRule("xid-sympathetic", r"NVRM: Xid \(.*\): (?:43|45),",
            _UNKNOWN, "XidSympathetic", _SYMPTOM, _XID),
    # Sizes that an aborted collective never filled in.
    LogRule("cuda-absurd-size", r"Tried to allocate more than 1EB memory",
            _UNKNOWN, "CollectiveFailed", _SYMPTOM, "PyTorch, CUDACachingAllocator.cpp; NVIDIA/nccl#1284"),
    LogRule("torchrun-sigterm",
            r"closing signal SIG|Closing process \d+ via signal|got signal: (?:15|SIGTERM)|(?:15|SIGTERM) death signal",
            _UNKNOWN, "ProcessTerminated", _SYMPTOM, _ELASTIC),
    LogRule("rendezvous-unreachable", r"client socket has (?:failed|timed out)|network addresses of \(.* cannot be",
            _UNKNOWN, "PeerLost", _SYMPTOM, "PyTorch, socket.cpp"),
)  # fmt: skip

_GPU: Final = (
    LogRule("cuda-out-of-memory",
            r"CUDA out of memory|(?:CUDA error: |Cuda failure (?:2 )?')out of memory|CUBLAS_STATUS_ALLOC_FAILED",
            _USER, "OutOfMemory", _CAUSE, "PyTorch, CUDACachingAllocator.cpp"),
    LogRule("cuda-illegal-access", r"illegal memory access was encountered",
            _USER, "IllegalMemoryAccess", _CAUSE, _CUDART),
    LogRule("cuda-device-assert", r"device-side assert triggered",
            _USER, "DeviceAssert", _CAUSE, _CUDART),
    LogRule("cuda-kernel-assert", r"\.cu:\d+: .*block: \[\d+,\d+,\d+\], thread: .* Assertion",
            _USER, "DeviceAssert", _CAUSE, "CUDA, assert() in a kernel"),
    LogRule("cuda-launch-failure", r"unspecified launch failure",
            _USER, "LaunchFailure", _CAUSE, _CUDART),
    LogRule("cuda-misaligned", r"misaligned address",
            _USER, "MisalignedAddress", _CAUSE, _CUDART),
    LogRule("cuda-illegal-instruction",
            r"CUDA error: (?:an illegal instruction was|invalid program counter|hardware stack error)",
            _USER, "IllegalInstruction", _CAUSE, _CUDART),
    LogRule("cuda-no-kernel-image", r"no kernel image is available for execution",
            _USER, "WrongBuild", _CAUSE, _CUDART),
    LogRule("cuda-invalid-ordinal", r"invalid device ordinal",
            _USER, "WrongDevice", _CAUSE, _CUDART),
    LogRule("cuda-driver-too-old", r"CUDA driver version is insufficient|NVIDIA driver on your system is too old",
            _UNKNOWN, "DriverTooOld", _CAUSE, _CUDART, _USER),
    LogRule("nvml-mismatch", r"Driver/library version mismatch",
            _NODE, "DriverMismatch", _CAUSE, "NVML, nvmlErrorString"),
    LogRule("cuda-ecc", r"uncorrectable ECC error encountered",
            _NODE, "DeviceError", _CAUSE, _CUDART),
    LogRule("cuda-nvlink", r"uncorrectable NVLink error",
            _NODE, "NvlinkError", _CAUSE, _CUDART),
    LogRule("gpu-lost", r"GPU is lost|GPU has fallen off the bus",
            _NODE, "GpuLost", _CAUSE, "NVML, nvmlErrorString; NVIDIA driver"),
    LogRule("cuda-no-device", r"no CUDA-capable device is detected|No CUDA GPUs are available",
            _NODE, "GpuMissing", _CAUSE, _CUDART),
    LogRule("cuda-device-busy", r"CUDA-capable device\(s\) is/are busy or unavailable",
            _NODE, "DeviceBusy", _CAUSE, _CUDART),
    LogRule("cuda-not-ready", r"system not yet initialized",
            _NODE, "FabricManagerDown", _CAUSE, f"{_CUDART}; pytorch/pytorch#35710"),
    LogRule("cuda-library", r"CUBLAS_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|NOT_INIT)|CUDNN_STATUS_EXECUTION_FAILED",
            _UNKNOWN, "LibraryFailed", _CAUSE, "cuBLAS and cuDNN status codes", _USER),
    # What a lost device, among others, looks like from inside.
    LogRule("cuda-unknown", r"CUDA error: (?:unknown error|initialization error|driver shutting down)",
            _UNKNOWN, "DeviceError", _CAUSE, _CUDART),
    LogRule("xid-application", r"NVRM: Xid \(.*\): (?:13|31),",
            _USER, "XidApplication", _CAUSE, _XID),
    LogRule("xid-hardware", r"NVRM: Xid \(.*\): (?:46|48|62|64|74|79|95|109|119|120|136|140|14[3-9]|150),",
            _NODE, "XidHardware", _CAUSE, _XID),
)  # fmt: skip

_COLLECTIVES: Final = (
    LogRule("nccl-duplicate-gpu", r"Duplicate GPU detected",
            _USER, "NcclMisused", _CAUSE, "NCCL, init.cc"),
    LogRule("nccl-invalid-usage", r"ncclInvalidUsage|ncclInvalidArgument",
            _USER, "NcclMisused", _CAUSE, _NCCL),
    LogRule("nccl-version", r"NCCL version mismatch with remote peer",
            _USER, "WrongBuild", _CAUSE, "NCCL, bootstrap.cc"),
    LogRule("nccl-no-interface", r"Bootstrap : no socket interface found",
            _USER, "InterfaceMissing", _CAUSE, "NCCL, bootstrap.cc"),
    LogRule("nccl-shared-memory", r"Error while .* shared memory segment",
            _USER, "SharedMemoryFull", _CAUSE, "NCCL, shmutils.cc"),
    LogRule("collective-mismatch", r"Detected mismatch between collectives on ranks",
            _USER, "CollectiveMismatch", _CAUSE, "PyTorch, ProcessGroupWrapper.cpp"),
    # A port's own event: nothing that a peer does can make it.
    LogRule("ib-port-error", r"NET/IB : .*async event ?: port error",
            _FABRIC, "LinkDown", _CAUSE, "NCCL, net_ib.cc; NVIDIA/nccl#905"),
    LogRule("ib-device-fatal", r"NET/IB : .*async (?:fatal )?event ?: local catastrophic error",
            _NODE, "NicError", _CAUSE, "NCCL, net_ib.cc; NVIDIA/nccl#230"),
)  # fmt: skip

_FILES: Final = (
    LogRule("disk-full", r"No space left on device|\[Errno 28\]",
            _UNKNOWN, "DiskFull", _CAUSE, _ERRNO, _USER),
    LogRule("disk-error", r"Input/output error|\[Errno 5\]",
            _NODE, "DiskError", _CAUSE, _ERRNO),
    LogRule("disk-quota", r"Disk quota exceeded|\[Errno 122\]",
            _USER, "DiskQuotaExceeded", _CAUSE, _ERRNO),
    LogRule("read-only", r"Read-only file system|\[Errno 30\]",
            _UNKNOWN, "ReadOnlyFileSystem", _CAUSE, _ERRNO),
    LogRule("stale-handle", r"Stale file handle|\[Errno 116\]",
            _FABRIC, "SharedFileSystemLost", _CAUSE, _ERRNO),
    # With a path behind it; without one it is a socket, whose peer is gone.
    LogRule("mount-lost", r"Transport endpoint is not connected: ['/]",
            _NODE, "MountLost", _CAUSE, _ERRNO),
    LogRule("open-files", r"Too many open files|\[Errno 24\]",
            _USER, "OpenFilesLimit", _CAUSE, _ERRNO),
    LogRule("thread-limit", r"can't start new thread|pthread_create failed|fork: .*Resource temporarily unavailable",
            _USER, "ThreadLimit", _CAUSE, "CPython, _threadmodule.c; libgomp; bash"),
    LogRule("file-missing", r"FileNotFoundError: ",
            _USER, "FileMissing", _CAUSE, "CPython"),
    LogRule("permission-denied", r"PermissionError: ",
            _USER, "PermissionDenied", _CAUSE, "CPython"),
    LogRule("file-damaged", r"PytorchStreamReader failed|UnpicklingError: |Error while deserializing|BadZipFile: ",
            _UNKNOWN, "FileDamaged", _CAUSE, "PyTorch, inline_container.cc; safetensors; CPython", _USER),
)  # fmt: skip

_STORES: Final = (
    LogRule("s3-credentials",
            r"(?:No|Partial)CredentialsError|Unable to locate credentials"
            r"|S3 refuses the credentials|: no S3 credentials;",
            _USER, "CredentialsRefused", _CAUSE, f"{_BOTO}; {_TRAINER}"),
    LogRule("s3-denied",
            r"\((?:InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AccessDenied|403)\) when calling",
            _USER, "CredentialsRefused", _CAUSE, f"{_BOTO}, codes of S3"),
    LogRule("s3-clock", r"\(RequestTimeTooSkewed\)|: RequestTimeTooSkewed ",
            _NODE, "ClockSkew", _CAUSE, f"{_BOTO}, codes of S3"),
    LogRule("s3-no-bucket", r"\(NoSuchBucket\) when calling|: bucket '.*' does not exist;",
            _USER, "BucketMissing", _CAUSE, f"{_BOTO}, codes of S3; {_TRAINER}"),
    LogRule("s3-no-key", r"\((?:NoSuchKey|404)\) when calling|: has no index\.json;",
            _USER, "DataMissing", _CAUSE, f"{_BOTO}, codes of S3; {_TRAINER}"),
    LogRule("s3-certificate", r"SSL validation failed for |CERTIFICATE_VERIFY_FAILED",
            _USER, "CertificateRefused", _CAUSE, f"{_BOTO}; OpenSSL"),
    LogRule("s3-busy", r"\((?:SlowDown|ServiceUnavailable|InternalError|RequestTimeout|50[0234])\) when calling",
            _NOBODY, "StoreUnavailable", _CAUSE, f"{_BOTO}, codes of S3"),
    LogRule("s3-unreachable",
            r"Could not connect to the endpoint URL|(?:Read|Connect) timeout on endpoint URL"
            r"|closed before we received a valid response|reading from response stream",
            _NOBODY, "StoreUnavailable", _CAUSE, _BOTO),
    LogRule("dns",
            r"Temporary failure in name resolution|Name or service not known"
            r"|Could not resolve host|NameResolutionError",
            _UNKNOWN, "NameResolutionFailed", _CAUSE, "glibc, gai_strerror; curl; urllib3"),
    LogRule("http-busy", r"\b(?:429 Client|50[0234] Server) Error: .* for url: ",
            _NOBODY, "StoreUnavailable", _CAUSE, "requests, Response.raise_for_status"),
    LogRule("http-unreachable", r"Max retries exceeded with url: |Failed to establish a new connection: ",
            _NOBODY, "StoreUnavailable", _CAUSE, "urllib3, exceptions.py"),
)  # fmt: skip

_OURS: Final = (
    LogRule("trainer-store", r"\bStoreUnavailable: |\"reason\": \"StoreUnavailable\"",
            _NOBODY, "StoreUnavailable", _CAUSE, f"{_TRAINER}, storage"),
    LogRule("trainer-save", r"\bSaveFailed: |\"reason\": \"SaveFailed\"",
            _NOBODY, "StoreUnavailable", _CAUSE, f"{_TRAINER}, checkpoint/checkpointer.py"),
    LogRule("trainer-refused",
            r"\"reason\": \"ConfigurationRefused\"|^(?:model|checkpoint|optimizer|parallel|guard|stages\[\d+\])"
            r"(?:\.\w+)+: .+; .+",
            _USER, "ConfigRefused", _CAUSE, _TRAINER),
    LogRule("trainer-data", r"\"reason\": \"DataRefused\"|^data(?:\.\w+)+: .+; .+",
            _USER, "DataRefused", _CAUSE, f"{_TRAINER}, data"),
    LogRule("trainer-diverged", r"\bDiverged: |\"reason\": \"Diverged\"",
            _USER, "Diverged", _CAUSE, f"{_TRAINER}, loop/guard.py"),
    LogRule("trainer-fenced", r"\bFenced: |\"reason\": \"Fenced\"",
            _NOBODY, "Fenced", _CAUSE, f"{_TRAINER}, checkpoint/fence.py"),
    LogRule("trainer-out-of-memory", r"out of memory: .* were estimated for a rank|\"reason\": \"OutOfMemory\"",
            _USER, "OutOfMemory", _CAUSE, f"{_TRAINER}, pod/exhausted.py"),
    LogRule("trainer-hangs", r"made no progress for \d+ s after step \d+; it is in |left no word while others found",
            _UNKNOWN, "Hang", _CAUSE, f"{_TRAINER}, pod/rank.py and pod/node.py"),
)  # fmt: skip

_PROCESSES: Final = (
    LogRule("kernel-oom-cgroup", r"Memory cgroup out of memory: Kill",
            _USER, "OOMKilled", _CAUSE, _KERNEL),
    LogRule("kernel-oom-node", r"Out of memory: Kill(?:ed)? process",
            _UNKNOWN, "NodeMemoryFull", _CAUSE, _KERNEL),
    LogRule("loader-shared-memory", r"killed by signal: Bus error|out of shared memory|insufficient shared memory",
            _USER, "SharedMemoryFull", _CAUSE, _LOADER),
    LogRule("loader-killed", r"DataLoader worker \(pid \d+\) is killed by signal: (?:Killed|9)",
            _UNKNOWN, "ProcessKilled", _CAUSE, _LOADER),
    LogRule("rank-killed", r"failed \(exitcode: -9\)|rank \d+ ended by signal SIGKILL|Signal 9 \(SIGKILL\) received",
            _UNKNOWN, "ProcessKilled", _CAUSE, f"{_ELASTIC}; {_TRAINER}, pod/node.py"),
    LogRule("rank-crashed",
            r"Fatal Python error: (?:Segmentation fault|Bus error|Illegal instruction|Floating point)|Caught signal 11 "
            r"|Segmentation fault \(core dumped\)|failed \(exitcode: -(?:4|7|8|11)\)"
            r"|ended by signal SIG(?:SEGV|BUS|ILL|FPE)",
            _UNKNOWN, "ProcessCrashed", _CAUSE, f"CPython, faulthandler; UCX; {_ELASTIC}; {_TRAINER}, pod/node.py",
            _USER),
)  # fmt: skip

_PYTHON: Final = (
    LogRule("host-out-of-memory", r"MemoryError\b|can't allocate memory|Cannot allocate memory",
            _USER, "OutOfMemory", _CAUSE, "CPython; NumPy; PyTorch, alloc_cpu.cpp"),
    LogRule("import-failed",
            r"ModuleNotFoundError: |ImportError: |: undefined symbol: |cannot open shared object file"
            r"|GLIBCXX_[\d.]+' not found",
            _USER, "ImportFailed", _CAUSE, "CPython; ld.so"),
    LogRule("syntax-error", r"^(?:SyntaxError|IndentationError|TabError): ",
            _USER, "SyntaxError", _CAUSE, "CPython"),
    LogRule("arguments-refused", r": error: (?:unrecognized arguments|argument |the following arguments are required)",
            _USER, "ArgumentsRefused", _CAUSE, "CPython, argparse"),
    LogRule("tensor-mismatch",
            r"shapes cannot be multiplied|must match the size of tensor|Expected all tensors to be on the same device",
            _USER, "TensorMismatch", _CAUSE, "PyTorch, ATen"),
    LogRule("state-dict-mismatch", r"Error\(s\) in loading state_dict",
            _USER, "CheckpointMismatch", _CAUSE, "PyTorch, nn/modules/module.py"),
    LogRule("compile-failed", r"torch\._(?:dynamo|inductor)\.exc\.|triton\.compiler\.errors\.",
            _USER, "CompileFailed", _CAUSE, "PyTorch, torch.compile; Triton"),
)  # fmt: skip

# Words around something else: another line, or another rank, says what.
_AROUND: Final = (
    LogRule("trainer-waits", r"; it waits for other ranks in ",
            _UNKNOWN, "Hang", _SYMPTOM, f"{_TRAINER}, pod/rank.py"),
    LogRule("trainer-peer-lost", r"\"reason\": \"(?:PeerLost|RendezvousLost|RendezvousClosed)\"",
            _UNKNOWN, "PeerLost", _SYMPTOM, f"{_TRAINER}, pod/ending.py and pod/node.py"),
    LogRule("trainer-shutdown", r"ranks were still running \d+ s after SIGTERM",
            _UNKNOWN, "ShutdownTimeout", _SYMPTOM, f"{_TRAINER}, pod/node.py"),
    LogRule("nccl-aborted",
            r"NCCL communicator was aborted|NCCL operations have failed or timed out"
            r"|watchdog thread terminated with exception|we are taking the entire process down",
            _UNKNOWN, "CollectiveFailed", _SYMPTOM, _PG_NCCL),
    LogRule("nccl-general",
            r"nccl(?:System|UnhandledCuda|Internal)Error|NCCL error(?: in)?: |DistBackendError"
            r"|unhandled (?:system|cuda) error",
            _UNKNOWN, "CollectiveFailed", _SYMPTOM, f"{_NCCL}; {_PG_NCCL}"),
    # Error 12 says that the other side did not answer: its port or cable, or just its process.
    LogRule(UNANSWERED, r"NET/IB.*: Got completion (?:from peer|with error)",
            _UNKNOWN, "PeerLost", _SYMPTOM, "NCCL, net_ib.cc; NVIDIA/nccl#426"),
    LogRule("gloo-general", r"/gloo/[\w/]+\.(?:cc|h):\d+\]|Gloo connectFullMesh failed",
            _UNKNOWN, "CollectiveFailed", _SYMPTOM, "gloo"),
    LogRule("rendezvous-store", r"Dist(?:Store|Network)?Error|recvV(?:alue|ector) failed on|sendBytes failed on"
            r"|wait timeout after \d+ms, keys|\d+ clients joined",
            _UNKNOWN, "RendezvousLost", _SYMPTOM, "PyTorch, TCPStore.cpp"),
    LogRule("rendezvous-error", r"Rendezvous(?:Closed|Connection|Timeout|State|GracefulExit)Error",
            _UNKNOWN, "RendezvousLost", _SYMPTOM, _ELASTIC),
    LogRule("peer-unreachable",
            r"Connection refused|No route to host|Network is unreachable|Connection timed out"
            r"|Broken pipe|BrokenPipeError",
            _UNKNOWN, "PeerLost", _SYMPTOM, _ERRNO),
    LogRule("torchrun-summary", r"ChildFailedError|failed \(exitcode: -?\d+\)",
            _UNKNOWN, "ProcessExit", _SYMPTOM, _ELASTIC),
    LogRule("loader-exited", r"DataLoader worker .*exited unexpectedly",
            _UNKNOWN, "ProcessExit", _SYMPTOM, _LOADER),
    LogRule("aborted", r"terminate called (?:after throwing|without an active)|Fatal Python error: Aborted"
            r"|Aborted \(core dumped\)|ended by signal SIGABRT",
            _UNKNOWN, "ProcessAborted", _SYMPTOM, f"libstdc++; CPython, faulthandler; {_TRAINER}, pod/node.py"),
    LogRule("interrupted", r"^KeyboardInterrupt\b|ended by signal SIG(?:INT|TERM)",
            _UNKNOWN, "ProcessTerminated", _SYMPTOM, f"CPython; {_TRAINER}, pod/node.py"),
)  # fmt: skip

TABLE: Final = (
    *_ALWAYS, *_GPU, *_COLLECTIVES, *_FILES, *_STORES, *_OURS, *_PROCESSES, *_PYTHON, *_AROUND,
)  # fmt: skip

# After the table and whatever a cluster adds to it: an exception that no row knows is the program's.
EXCEPTION: Final = LogRule(
    "python-exception", r"^(?:\w+\.)*\w*(?:Error|Exception): ", _USER, "ProgramError", _CAUSE, "CPython"
)
