"""Each row of the table: a line as its library writes it, and one that looks like it and means something else."""

import pytest

from internlm2_operator.health.logrules import EXCEPTION, TABLE, Weight
from internlm2_operator.health.rulebook import Rulebook, clean, fits
from internlm2_operator.plan.causes import TABLE as CAUSES

BOOK = Rulebook()
RULES = {rule.name: rule for rule in (*TABLE, EXCEPTION)}

# By rule: a line that hits it, a line that does not.
LINES = {
    "nccl-watchdog-timeout": (
        "[rank5]:[E1126 03:14:15.926 ProcessGroupNCCL.cpp:670] [Rank 5] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=271, OpType=ALLREDUCE, NumelIn=828, NumelOut=828, Timeout(ms)=600000) ran for 600031 ms",
        "[Rank 5] ProcessGroupNCCL initialization options: TIMEOUT(ms): 600000",
    ),
    "nccl-watchdog-stuck": (
        "[PG ID 0 PG GUID 0 Rank 2] ProcessGroupNCCL's watchdog got stuck for 480 seconds without making progress",
        "watchdog heartbeat timeout is 480 seconds",
    ),
    "gloo-timeout": (
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] "
        "Timed out waiting 1800000ms for recv operation to complete",
        "Timed out waiting for pending OwnerRRefs to be deleted.",
    ),
    "monitored-barrier": (
        "RuntimeError: [Rank 0]: Ranks 3, 4 failed to pass monitoredBarrier in 30000 ms",
        "ProcessGroupNCCL does not support monitoredBarrier, only GLOO supports monitored barrier.",
    ),
    "connection-reset": (
        "RuntimeError: [gloo/transport/tcp/pair.cc:545] Read error [10.1.2.3]:4711: Connection reset by peer",
        "connection reset counters: 0",
    ),
    "peer-closed": (
        "misc/socket.cc:484 NCCL WARN socketProgress: Connection closed by remote peer n7.example<41234>",
        "connection closed by client after 200 OK",
    ),
    "nccl-remote": (
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
        "ncclSuccess",
    ),
    "xid-sympathetic": (
        "NVRM: Xid (PCI:0000:3b:00): 45, pid=4242, name=python, Ch 00000010",
        "NVRM: Xid (PCI:0000:3b:00): 145, RLW_REMAP Nonfatal XC0 i0 Link 06",
    ),
    "cuda-absurd-size": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate more than 1EB memory.",
        "Tried to allocate 1.00 GiB",
    ),
    "torchrun-sigterm": (
        "W1126 03:14:20 api.py:1029] Sending process 217 closing signal SIGTERM",
        "installed a handler of SIGTERM",
    ),
    "rendezvous-unreachable": (
        "torch.distributed.DistNetworkError: The client socket has failed to connect to any network address of "
        "(demo-1-0.demo, 29400). The IPv4 network addresses of (demo-1-0.demo, 29400) cannot be retrieved",
        "The client socket has connected to [10.1.2.3]:29400 on [10.1.2.4]:51234.",
    ),
    "cuda-out-of-memory": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of "
        "79.10 GiB of which 1.06 GiB is free.",
        "max_memory_allocated 79.1 GiB, out of 80",
    ),
    "cuda-illegal-access": (
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "checked for illegal accesses: none",
    ),
    "cuda-device-assert": ("RuntimeError: CUDA error: device-side assert triggered", "TORCH_USE_CUDA_DSA is on"),
    "cuda-kernel-assert": (
        "/pytorch/aten/src/ATen/native/cuda/Indexing.cu:1369: indexSelectSmallIndex: block: [3,0,0], "
        "thread: [32,0,0] Assertion `srcIndex < srcSelectDimSize` failed.",
        "kernels/norm.cu:12: block: [3,0,0] of 4",
    ),
    "cuda-launch-failure": ("RuntimeError: CUDA error: unspecified launch failure", "CUDA_LAUNCH_BLOCKING=1"),
    "cuda-misaligned": ("RuntimeError: CUDA error: misaligned address", "address is aligned to 16 bytes"),
    "cuda-illegal-instruction": (
        "RuntimeError: CUDA error: an illegal instruction was encountered",
        "an instruction was skipped",
    ),
    "cuda-no-kernel-image": (
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
        "kernel image pulled",
    ),
    "cuda-invalid-ordinal": ("RuntimeError: CUDA error: invalid device ordinal", "device ordinal 3"),
    "cuda-driver-too-old": (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12020).",
        "The NVIDIA driver on your system is 580.95",
    ),
    "nvml-mismatch": ("Failed to initialize NVML: Driver/library version mismatch", "NVML library version: 580.95"),
    "cuda-ecc": ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "uncorrectable ECC errors: 0"),
    "cuda-nvlink": (
        "RuntimeError: CUDA error: uncorrectable NVLink error detected during the execution",
        "NVLink: 18 links up, errors 0",
    ),
    "gpu-lost": (
        "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.  Reboot the system",
        "no GPU was lost",
    ),
    "cuda-no-device": ("RuntimeError: No CUDA GPUs are available", "8 CUDA GPUs are available"),
    "cuda-device-busy": (
        "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "all devices are busy: utilisation 98 %",
    ),
    "cuda-not-ready": (
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
        "process group not yet initialized",
    ),
    "cuda-library": (
        "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m )`",
        "CUBLAS_STATUS_SUCCESS",
    ),
    "cuda-unknown": ("RuntimeError: CUDA error: unknown error", "error: unknown option --x"),
    "xid-application": (
        "NVRM: Xid (PCI:0000:3b:00): 31, pid=4242, name=python, Ch 00000008, MMU Fault: ENGINE GRAPHICS",
        "NVRM: Xid (PCI:0000:3b:00): 131, pid=4242",
    ),
    "xid-hardware": (
        "NVRM: Xid (PCI:0000:3b:00): 119, pid=4242, name=python, Timeout after 6s of waiting for RPC response from GSP",
        "NVRM: Xid (PCI:0000:3b:00): 63, pid=4242, Row Remapper: new row marked for remapping",
    ),
    "nccl-duplicate-gpu": (
        "init.cc:497 NCCL WARN Duplicate GPU detected : rank 2 and rank 0 both on CUDA device 1000",
        "no duplicate GPUs",
    ),
    "nccl-invalid-usage": (
        "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.",
        "invalid usage: see --help",
    ),
    "nccl-version": (
        "bootstrap.cc:201 NCCL WARN NCCL version mismatch with remote peer 10.1.2.3<4711> (local: 22700, remote 23007)",
        "NCCL version 2.30.7+cuda13.0",
    ),
    "nccl-no-interface": ("NCCL WARN Bootstrap : no socket interface found", "NCCL INFO Bootstrap : Using eth0"),
    "nccl-shared-memory": (
        "misc/shmutils.cc:87 NCCL WARN Error while creating shared memory segment /dev/shm/nccl-x7Yz1 (size 9637888), "
        "error: No such file or directory (2)",
        "shared memory segment /dev/shm/nccl-x7Yz1 (size 9637888)",
    ),
    "collective-mismatch": (
        "RuntimeError: Detected mismatch between collectives on ranks. Rank 0 is running collective: X(",
        "collectives on ranks 0 to 7",
    ),
    "ib-port-error": (
        "transport/net_ib.cc:93 NCCL WARN NET/IB : mlx5_2:1 Got async event : port error",
        "transport/net_ib.cc:93 NCCL WARN NET/IB : mlx5_2:1 Got non-fatal async event: port active(9)",
    ),
    "ib-device-fatal": (
        "transport/net_ib.cc:80 NCCL WARN NET/IB : mlx5_0:1 Got async event : local catastrophic error",
        "NET/IB : mlx5_0:1 Got async event : local access violation work queue error",
    ),
    "disk-full": ("OSError: [Errno 28] No space left on device: '/scratch/cache/7'", "space left on device: 12 GiB"),
    "disk-error": ("OSError: [Errno 5] Input/output error: '/data/train.bin'", "input/output of the model"),
    "disk-quota": ("OSError: [Errno 122] Disk quota exceeded: '/home/u/run'", "quota: 80 % of the disk"),
    "read-only": ("OSError: [Errno 30] Read-only file system: '/opt/out'", "mounted read-only"),
    "stale-handle": ("OSError: [Errno 116] Stale file handle: '/mnt/nfs/train.bin'", "stale cache dropped"),
    "mount-lost": (
        "OSError: [Errno 107] Transport endpoint is not connected: '/mnt/fuse/train.bin'",
        "[Errno 107] Transport endpoint is not connected",
    ),
    "open-files": ("OSError: [Errno 24] Too many open files", "open files: 1024"),
    "thread-limit": ("RuntimeError: can't start new thread", "started a new thread"),
    "file-missing": (
        "FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'",
        "ls: cannot access 'x': No such file or directory",
    ),
    "permission-denied": ("PermissionError: [Errno 13] Permission denied: '/data'", "permission granted"),
    "file-damaged": (
        "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
        "PytorchStreamReader opened model.pt",
    ),
    "s3-credentials": ("botocore.exceptions.NoCredentialsError: Unable to locate credentials", "Found credentials"),
    "s3-denied": (
        "botocore.exceptions.ClientError: An error occurred (AccessDenied) when calling the PutObject operation: no",
        "AccessDenied is not retried",
    ),
    "s3-clock": (
        "botocore.exceptions.ClientError: An error occurred (RequestTimeTooSkewed) when calling the GetObject "
        "operation: The difference between the request time and the current time is too large.",
        "clock skew: 0.2 s",
    ),
    "s3-no-bucket": (
        "botocore.errorfactory.NoSuchBucket: An error occurred (NoSuchBucket) when calling the ListObjectsV2 operation",
        "bucket 'runs' exists",
    ),
    "s3-no-key": (
        "botocore.errorfactory.NoSuchKey: An error occurred (NoSuchKey) when calling the GetObject operation",
        "key 404 is new",
    ),
    "s3-certificate": (
        "botocore.exceptions.SSLError: SSL validation failed for https://s3.example/runs certificate verify failed",
        "SSL validation passed",
    ),
    "s3-busy": (
        "botocore.exceptions.ClientError: An error occurred (SlowDown) when calling the PutObject operation "
        "(reached max retries: 4): Please reduce your request rate.",
        "SlowDown: waiting 2 s",
    ),
    "s3-unreachable": (
        'botocore.exceptions.EndpointConnectionError: Could not connect to the endpoint URL: "http://s3.example:9000/runs"',
        "endpoint URL: http://s3.example:9000",
    ),
    "dns": (
        "socket.gaierror: [Errno -3] Temporary failure in name resolution",
        "name resolution took 3 ms",
    ),
    "http-busy": (
        "requests.exceptions.HTTPError: 503 Server Error: Service Temporarily Unavailable for url: https://hub.example/a",
        "requests.exceptions.HTTPError: 404 Client Error: Not Found for url: https://hub.example/a",
    ),
    "http-unreachable": (
        "urllib3.exceptions.MaxRetryError: HTTPSConnectionPool(host='s3.example', port=443): Max retries exceeded with "
        "url: /runs/step-500/manifest.json",
        "max retries: 4",
    ),
    "trainer-store": (
        "internlm2_trainer.storage.StoreUnavailable: s3://runs/a: SlowDown 503",
        '{"event": "checkpoint-waiting", "rank": 0, "reason": "s3://runs/a: 503"}',
    ),
    "trainer-save": (
        "internlm2_trainer.checkpoint.checkpointer.SaveFailed: Conflict: step-00000040 changed",
        '{"event": "checkpoint-skipped", "step": 40, "inFlight": 30, "forSeconds": 12.5}',
    ),
    "trainer-refused": (
        "parallel.tensor: 16 does not divide kvHeads 8; use 1, 2, 4 or 8",
        "parallel.tensor: 8",
    ),
    "trainer-data": (
        "data.url: has shard-00417.bin with another SHA-256; run `tokenize` again",
        "data.url: s3://corpus",
    ),
    "trainer-diverged": (
        "internlm2_trainer.loop.guard.Diverged: the loss spiked to 11.2 at step 70 after 3 rollbacks; lower it",
        '{"event": "loss-spike", "step": 70, "loss": 11.2, "limit": 4.1}',
    ),
    "trainer-fenced": (
        "internlm2_trainer.checkpoint.fence.Fenced: attempt 3 holds the fence; this is attempt 2",
        "the fence is held by this attempt",
    ),
    "trainer-out-of-memory": (
        "out of memory: 92.1 GiB were estimated for a rank, 40.0 GiB of it activations; use more ranks",
        "61.0 GiB were estimated for a rank",
    ),
    "trainer-hangs": (
        "rank 3 made no progress for 61 s after step 40; it is in internlm2_trainer.data.source.micro_batch, line 71; "
        "stacks are on stderr",
        "rank 3 made progress after step 40",
    ),
    "kernel-oom-cgroup": (
        "Memory cgroup out of memory: Killed process 4242 (python) total-vm:104857600kB, anon-rss:67108864kB",
        "memory cgroup limit 64 GiB",
    ),
    "kernel-oom-node": (
        "Out of memory: Killed process 4242 (python) total-vm:104857600kB, anon-rss:67108864kB",
        "Killed process 4242 on request",
    ),
    "loader-shared-memory": (
        "RuntimeError: DataLoader worker (pid 731) is killed by signal: Bus error. "
        "It is possible that dataloader's workers are out of shared memory.",
        "shared memory: 8 GiB",
    ),
    "loader-killed": (
        "RuntimeError: DataLoader worker (pid 731) is killed by signal: Killed. ",
        "RuntimeError: DataLoader worker (pid 731) is killed by signal: Terminated. ",
    ),
    "rank-killed": (
        "E1126 03:14:15 api.py:1003] failed (exitcode: -9) local_rank: 3 (pid: 217) of binary: /usr/bin/python",
        '{"message": "rank 3 ended by code 9"}',
    ),
    "rank-crashed": ("Fatal Python error: Segmentation fault", "Fatal Python error: Aborted"),
    "host-out-of-memory": (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 34359738368 bytes. Error code 12 (Cannot allocate memory)",
        "MemoryErrors are counted",
    ),
    "import-failed": ("ModuleNotFoundError: No module named 'flash_attn'", "module flash_attn was imported"),
    "syntax-error": ("SyntaxError: invalid syntax", "no SyntaxError: fine"),
    "arguments-refused": ("train.py: error: unrecognized arguments: --lr-decay", "train.py: error: see below"),
    "tensor-mismatch": (
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x512 and 1024x256)",
        "mat1 and mat2 shapes are 64x512 and 512x256",
    ),
    "state-dict-mismatch": (
        "RuntimeError: Error(s) in loading state_dict for InternLM2:",
        "loading state_dict for InternLM2",
    ),
    "compile-failed": (
        "torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:",
        "torch._dynamo is off",
    ),
    "trainer-waits": (
        "rank 2 made no progress for 61 s after step 40; it waits for other ranks in "
        "internlm2_trainer.loop.train.step, line 9; stacks are on stderr",
        "it waits for nobody",
    ),
    "trainer-peer-lost": (
        '{"event": "ranks-failed", "reason": "PeerLost", "rank": 1, "message": "NCCL", "firstFailingRank": null}',
        '{"event": "ranks-started", "ranks": [0, 1], "world": 2}',
    ),
    "trainer-shutdown": (
        '{"event": "agent-ended", "message": "ranks were still running 60 s after SIGTERM"}',
        "ranks ended 3 s after SIGTERM",
    ),
    "nccl-aborted": (
        "[Rank 1] Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA kernels, "
        "subsequent GPU operations might run on corrupted/incomplete data.",
        "[Rank 1] NCCL operations are asynchronous",
    ),
    "nccl-general": (
        "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, "
        "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.30.7",
        "NCCL INFO comm 0x55 rank 3 nranks 8 - Init COMPLETE",
    ),
    "ib-completion": (
        "NCCL WARN NET/IB : Got completion from peer 10.1.2.3<54862> with status=12 opcode=0 len=0 vendor err 129",
        "NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB eth0:10.1.2.3<0>",
    ),
    "gloo-general": (
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:446] writev [10.1.2.3]:4711: error",
        "backend gloo",
    ),
    "rendezvous-store": (
        "torch.distributed.DistStoreError: wait timeout after 600000ms, keys: /default_pg/0//cpu//0/rank_3",
        "wait timeout is 600000ms",
    ),
    "rendezvous-error": (
        "torch.distributed.elastic.rendezvous.api.RendezvousClosedError",
        "rendezvous 'demo-1' is complete",
    ),
    "peer-unreachable": ("ConnectionRefusedError: [Errno 111] Connection refused", "connections refused so far: 0"),
    "torchrun-summary": (
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        "exitcode: 0",
    ),
    "loader-exited": (
        "RuntimeError: DataLoader worker (pid(s) 731, 732) exited unexpectedly",
        "DataLoader worker (pid 731) exited",
    ),
    "aborted": ("terminate called after throwing an instance of 'std::runtime_error'", "terminate called: False"),
    "interrupted": ("KeyboardInterrupt", "raise KeyboardInterrupt to stop"),
    "python-exception": ("ZeroDivisionError: division by zero", "UserWarning: ValueError: may follow"),
}  # fmt: skip

# By the row that is meant: a line that a later row of another blame or weight fits, too.
ORDERED = {
    "nccl-watchdog-timeout": "Watchdog caught collective operation timeout: device-side assert triggered",
    "cuda-absurd-size": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate more than 1EB memory.",
    "connection-reset": "ValueError: batch 3: Connection reset by peer: No space left on device",
    "cuda-illegal-access": "[Rank 1] Process group watchdog thread terminated with exception: CUDA error: "
    "an illegal memory access was encountered",
    "cuda-out-of-memory": "DistBackendError: NCCL error in: x.cpp:1: Cuda failure 2 'out of memory'",
    "disk-error": "pickle.UnpicklingError: [Errno 5] Input/output error",
    "rank-killed": "failed (exitcode: -9) local_rank: 3 (pid: 217) of binary: python",
    "gpu-lost": "RuntimeError: GPU is lost",
}


@pytest.mark.parametrize("name", RULES)
def test_rule_hits_its_line_and_not_the_one_that_looks_like_it(name: str) -> None:
    line, near = LINES[name]
    hit = BOOK.hit(clean(line))
    assert hit is RULES[name]
    assert BOOK.hit(clean(near)) is not hit


def test_each_rule_has_one_example_and_no_example_is_left_over() -> None:
    assert list(LINES) == [rule.name for rule in (*TABLE, EXCEPTION)]


@pytest.mark.parametrize("name", RULES)
def test_no_line_fits_rows_that_disagree(name: str) -> None:
    """An example fits no second row of another blame, unless it is one whose order is tested below."""
    line = clean(LINES[name][0])
    fitting = [rule for rule in TABLE if fits(rule, line)] or [EXCEPTION]
    assert {rule.blame for rule in fitting} == {RULES[name].blame} or line == ORDERED.get(name)


@pytest.mark.parametrize("name", ORDERED)
def test_where_rows_disagree_the_earlier_one_is_meant(name: str) -> None:
    fitting = [rule for rule in RULES.values() if fits(rule, ORDERED[name])]
    assert len({(rule.blame, rule.weight) for rule in fitting}) > 1, "the control: there is something to decide"
    assert BOOK.hit(ORDERED[name]) is fitting[0] is RULES[name]


def test_what_others_do_to_a_rank_is_a_symptom_always() -> None:
    always = ("nccl-watchdog-timeout", "gloo-timeout", "connection-reset", "torchrun-sigterm", "xid-sympathetic")
    first_cause = next(i for i, rule in enumerate(TABLE) if rule.weight is Weight.CAUSE)
    assert all(TABLE.index(RULES[name]) < first_cause for name in always)


def test_every_row_names_its_source_and_a_cause_in_one_word() -> None:
    assert len(RULES) == len(TABLE) + 1 >= 46
    assert all(rule.source and rule.cause.isalnum() and rule.cause[0].isupper() for rule in RULES.values())


def test_words_of_our_trainer_have_the_causes_of_the_table_of_causes() -> None:
    ours = {rule.cause for name, rule in RULES.items() if name.startswith(("trainer-", "kernel-oom-cgroup", "rank-"))}
    assert ours <= {row.name for row in CAUSES}
