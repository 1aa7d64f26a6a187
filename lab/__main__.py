"""The lab's command line: `python -m lab --help`."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

from lab import build, deps, faults, images
from lab.chaos import options as chaos_options
from lab.cluster import Lab
from lab.control import SCRAPE_SECONDS
from lab.settings import CHECKOUT, LabError
from lab.victims import OPERATOR

DESCRIPTION = """A real Kubernetes on this machine: etcd, API server, 5 nodes with real kubelets, DNS, S3, Prometheus.
Only the GPUs are simulated (device plugin and DCGM exporter). Needs Linux root."""
EXAMPLES = """examples:
  python -m lab up                                   start it (20 s once everything is built)
  python -m lab kubectl get nodes,pods -A            kubectl and helm pass through
  python -m lab enter -- python my_s3_program.py     run where S3, Prometheus and the API server can be reached
  python -m lab fault node-kill --node n2            lose a machine
  python -m lab fault xid --node n1 --gpu 0 --xid 79
  python -m lab fault partition --node n3 --seconds 20
  python -m lab fault heal                           undo every fault
  python -m lab chaos --faults 100 --seed 1 2        a job under a hundred faults, nobody helping
  python -m lab dashboards --minutes 20              pictures of what it went through, into docs/images
  python -m lab logs n2-kubelet -f                   the output of a daemon; `logs` alone lists them
  python -m lab down                                 remove everything but the built tools

The lab has network namespaces of its own: nothing of it can be reached from outside `enter`, `kubectl` and `helm`.
--state DIR (or INTERNLM2_LAB_STATE) names another lab, apart from this one."""
# What follows these is another program's command line and is not parsed here.
PASSTHROUGH = ("kubectl", "helm", "enter", "demo", "chaos", "dashboards", "images")


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("python -m lab", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=raw)
    top.add_argument(
        "--state", metavar="DIR", help="state folder (default: $INTERNLM2_LAB_STATE, or `lab` in the cache)"
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("up", help="start whatever does not run and wait until all nodes are Ready")
    verbs.add_parser("down", help="stop everything and leave nothing behind, also after a crash")
    verbs.add_parser("status", help="daemons, nodes and injected faults").add_argument("--json", action="store_true")
    packages = verbs.add_parser("deps", help="install the Debian packages that are missing")
    packages.add_argument("--browser", action="store_true", help="what pages are looked at with, too (300 MB)")
    verbs.add_parser("build", help="build the Go tools that are missing")
    for name in PASSTHROUGH:
        verb = verbs.add_parser(name, help=PASSED[name][1], add_help=False, prefix_chars="\0")
        verb.add_argument("rest", nargs=argparse.REMAINDER)
    _logs(verbs.add_parser("logs", help="output of a daemon, of the operator, or of a pod (namespace/name)"))
    _fault(verbs.add_parser("fault", help="break something, or `heal` it", formatter_class=raw))
    return top


def _logs(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("name", nargs="?", help="such as kube-apiserver, n2-kubelet, operator, default/demo-0-0-1")
    verb.add_argument("-f", "--follow", action="store_true")
    verb.add_argument("-n", "--lines", type=int, default=100)


def _fault(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("kind", choices=[*faults.KINDS, "heal"])
    verb.add_argument("--node", help="n1 to n4, which have GPUs, or n5")
    verb.add_argument("--gpu", type=int, help="index on the node (default 0)")
    verb.add_argument("--xid", type=int, help="such as 79 (off the bus) or 31 (the program's fault)")
    verb.add_argument("--pod", help="namespace/name (default: first pod of the first job)")
    verb.add_argument("--by", type=int, help="clock-jump: seconds, such as -3600 (default) or 120")
    verb.add_argument("--prefix", help="bit-rot: bucket/job whose newest checkpoint is damaged")
    verb.add_argument("--seconds", type=float, help="undo it after so long; what heals by itself needs none")
    verb.add_argument(
        "--link", choices=("down", "up"), help="node-kill: down = power loss, no FIN or RST (default); up"
    )


def up(lab: Lab, _: argparse.Namespace) -> int:
    begin = time.monotonic()
    lab.up()
    print(f"lab: {len(lab.node_names)} nodes Ready after {time.monotonic() - begin:.1f} s", file=sys.stderr)
    return 0


def down(lab: Lab, _: argparse.Namespace) -> int:
    lab.down()
    return 0


def install(lab: Lab, args: argparse.Namespace) -> int:
    deps.install_debian(lab.versions)
    if args.browser:  # before anybody enters the lab, from which no package can be reached
        deps.install_browser(lab.versions)
        deps.axe(lab.versions)
    return 0


def make(lab: Lab, _: argparse.Namespace) -> int:
    build.build(lab.versions)
    return 0


def status(lab: Lab, args: argparse.Namespace) -> int:
    """Print the lab's state; 1 when it is not up."""
    report = lab.status()
    if args.json:
        print(json.dumps(report))
    else:
        print(f"state    {report['state']}")
        print(f"daemons  {', '.join(report['daemons']) or 'none: the lab is down'}")
        for name, node in report["nodes"].items():
            words = ("Ready" if node["ready"] else "NotReady") + (", cordoned" if node["cordoned"] else "")
            print(f"node     {name} {words}, {node['gpus']} simulated GPUs")
        for fault in report["faults"]:
            print(f"fault    {json.dumps(fault)}")
    return 0 if report["nodes"] else 1


def tool(name: str) -> Callable[[Lab, argparse.Namespace], int]:
    def pass_through(lab: Lab, args: argparse.Namespace) -> int:
        argv = [str(lab.binaries[name]), *args.rest]
        local = name == "helm" and args.rest[:1] in (["lint"], ["template"], ["version"], ["show"])
        return subprocess.run(argv, env=lab.environment(), check=False).returncode if local else _inside(lab, argv)

    return pass_through


def enter(lab: Lab, args: argparse.Namespace) -> int:
    rest = args.rest[1:] if args.rest[:1] == ["--"] else args.rest
    return _inside(lab, rest or [os.environ.get("SHELL", "/bin/sh")])


def demo(lab: Lab, args: argparse.Namespace) -> int:
    lab.up()
    return _inside(lab, [sys.executable, "-m", "lab.demo", *args.rest])


def chaos(lab: Lab, args: argparse.Namespace) -> int:
    chaos_options.parse(args.rest)
    lab.up()
    return _inside(lab, [sys.executable, "-m", "lab.chaos", *args.rest])


def dashboards(lab: Lab, args: argparse.Namespace) -> int:
    scrape = f"--scrape={SCRAPE_SECONDS}"
    return _inside(lab, [sys.executable, "-m", "dashboards.snapshot", scrape, *args.rest])


def build_images(_: Lab, args: argparse.Namespace) -> int:
    return images.main(args.rest)


def _inside(lab: Lab, argv: list[str]) -> int:
    return lab.run_in_network(argv, capture=False, seconds=None).returncode


def logs(lab: Lab, args: argparse.Namespace) -> int:
    """Print the last lines of a daemon, the operator or a pod."""
    folder = lab.state / "logs"
    follow = ["-f"] if args.follow else []
    if args.name is None:
        print("\n".join(sorted(path.stem for path in folder.glob("*.log"))) or "none: the lab is down")
        return 0
    if (folder / f"{args.name}.log").exists():
        return subprocess.run(
            ["tail", "-n", str(args.lines), *follow, str(folder / f"{args.name}.log")], check=False
        ).returncode
    kubectl = [str(lab.binaries["kubectl"]), "logs", f"--tail={args.lines}", *follow]
    if args.name == "operator":
        pod = lab.get("pods", "-A", "-l", OPERATOR)["items"]
        if not pod:
            raise LabError("logs: no operator is installed; install the chart first")
        return _inside(lab, [*kubectl, "-n", pod[0]["metadata"]["namespace"], "-l", OPERATOR])
    namespace, _, name = args.name.rpartition("/")
    return _inside(lab, [*kubectl, "-n", namespace or "default", name])


def fault(lab: Lab, args: argparse.Namespace) -> int:
    """Inject or heal; one line of JSON for each."""
    if args.kind == "heal":
        for record in lab.heal(args.node):
            print(json.dumps({"healed": record}), flush=True)
        return 0
    what = {key: getattr(args, key) for key in ("node", "gpu", "xid", "pod", "link", "prefix", "by")}
    record = lab.fault(args.kind, **what)
    print(json.dumps(record), flush=True)
    if args.seconds is not None:
        time.sleep(args.seconds)
        lab.undo(record)
        print(json.dumps({"healed": record}), flush=True)
    return 0


PASSED: dict[str, tuple[Callable[[Lab, argparse.Namespace], int], str]] = {
    "kubectl": (tool("kubectl"), "run kubectl against the lab"),
    "helm": (tool("helm"), "run helm against the lab"),
    "enter": (enter, "run a program in the lab's network with KUBECONFIG, AWS_* and PROMETHEUS_URL set"),
    "demo": (demo, "play the demo: a job loses a node and a GPU, and heals itself"),
    "chaos": (chaos, "break things at random, a hundred in a row, and look whether one job survives them to the bit"),
    "dashboards": (dashboards, "draw the chart's dashboards from the lab's Prometheus into docs/images"),
    "images": (build_images, "build images/ from Debian's packages, where no registry can be reached"),
}
VERBS: dict[str, Callable[[Lab, argparse.Namespace], int]] = {
    "up": up,
    "down": down,
    "status": status,
    "deps": install,
    "build": make,
    "logs": logs,
    "fault": fault,
} | {name: run for name, (run, _) in PASSED.items()}


# The lab's containers show the environment of the Python that starts it, so it must be the locked one.
NEEDS_ENVIRONMENT = ("up", "demo", "chaos", "dashboards")


def enter_environment() -> None:
    """Go on as the Python of the locked environment; it is made first where it is not there."""
    made = subprocess.run([str(CHECKOUT / "lab" / "bootstrap.sh")], stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode:
        raise LabError("the Python environment could not be made, see above")
    python = f"{made.stdout.strip()}/bin/python"
    os.execv(python, [python, "-m", "lab", *sys.argv[1:]])


def main() -> int:
    """Run one verb; 2 for what the user can put right, with one line that says how."""
    args = parser().parse_args()
    try:
        if args.verb in NEEDS_ENVIRONMENT and importlib.util.find_spec("torch") is None:
            enter_environment()
        return VERBS[args.verb](Lab(args.state), args)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
    except subprocess.TimeoutExpired as error:
        print(f"lab: {error.cmd[0]}: no end within {error.timeout:.0f} s; is the machine overloaded?", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
