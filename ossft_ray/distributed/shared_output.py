"""Checks that every node sees the run's folder: for all nodes before a stage starts, and by each worker for its own.

Without them, nodes that write to their own disks would work for hours and leave parts that no one else can read.
"""

import socket
import time
import uuid

import ray

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.distributed.nodes import alive_nodes, ask_nodes, node_name
from ossft_ray.run_folder.names import CONFIG

_LAG_SECONDS = 5.0  # network file systems show what another node wrote some seconds later
_ANSWER_SECONDS = 180.0  # a node may have to start a process first
_HINT = "give a folder that all nodes share, at the same path, or an object-store URI (s3://...), as [run] output"


def check_shared(output: str) -> None:
    """Make every node find a file that this process writes into the run's folder, and write one next to it.

    A single node needs no check. Nodes that are lost during the check do not count.

    Raises:
        InputError: a node does not see the folder, or cannot write to it; names the nodes.
    """
    nodes = {node["NodeID"]: node_name(node) for node in alive_nodes()}
    if len(nodes) < 2:
        return
    folder, marker = Folder.at(output), f".shared-{uuid.uuid4().hex}"
    folder.write_bytes(marker, b"")
    try:
        refusals, reasons = ask_nodes(_probe, dict.fromkeys(nodes, (output, marker)), _ANSWER_SECONDS)
        reasons |= {node_id: refusal for node_id, refusal in refusals.items() if refusal is not None}
    finally:
        folder.delete_file(marker)
    alive = {node["NodeID"] for node in alive_nodes()}
    if unusable := {nodes[node_id]: reason for node_id, reason in reasons.items() if node_id in alive}:
        raise InputError(not_shared(output, unusable, len(nodes)))


def not_shared(output: str, reasons: dict[str, str], num_nodes: int) -> str:
    """The error message for nodes that cannot use the output: a reason by node name."""
    listing = "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items()))
    return f"[run] output: {output} is not shared by all {num_nodes} nodes of the cluster ({listing}); {_HINT}"


def check_sees_run(experiment: Experiment) -> None:
    """A worker's check of its own node, which may have joined after `check_shared`.

    Raises:
        InputError: the run's folder holds no config.json on this node.
    """
    output = experiment.run.output
    if not Folder.at(output).exists(CONFIG):
        raise InputError(f"[run] output: node {socket.gethostname()} does not see {output}/{CONFIG}; {_HINT}")


@ray.remote(num_cpus=0, max_retries=0)
def _probe(output: str, marker: str) -> str | None:
    """On a node: why it does not see `marker` in the output, or cannot write there; None if it can do both."""
    deadline, written = time.monotonic() + _LAG_SECONDS, f"{marker}-{uuid.uuid4().hex}"
    try:
        folder = Folder.at(output)
        while not folder.exists(marker):
            if time.monotonic() > deadline:
                return "does not see the files of the others"
            time.sleep(0.5)
        folder.write_bytes(written, b"")
        folder.delete_file(written)
    except (InputError, OSError) as error:
        return brief(error)
    return None
