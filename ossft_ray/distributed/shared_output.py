"""Does every node see the run's folder? Asked before anything is spent, and by each worker as it begins.

Several nodes with an output on each one's own disk would work for hours and leave parts that nobody finds together.
"""

import socket
import time
import uuid

import ray

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.distributed.nodes import alive_nodes, on_node
from ossft_ray.run_folder.names import CONFIG

_LAG_SECONDS = 5.0
_WAIT_SECONDS = 180.0  # for a node to start a process and answer
_MEND = "give a folder that all nodes share, at the same path, or an object-store URI (s3://...), as [run] output"


def check_shared(output: str) -> None:
    """Let every node find a file that this process wrote into the run's folder, and write one that it finds.

    One node needs no check. A node that dies meanwhile is none that matters.

    Raises:
        InputError: a node does not see the folder, or this process does not see what it wrote; names the nodes.
    """
    nodes = {node["NodeID"]: _name(node) for node in alive_nodes()}
    if len(nodes) < 2:
        return
    folder, marker = Folder.at(output), f".shared-{uuid.uuid4().hex}"
    folder.write_bytes(marker, b"")
    try:
        blind = _ask(nodes, output, marker)
        for node_id, name in nodes.items():
            if name not in blind and not _arrives(folder, _reply(marker, node_id)) and _is_alive(node_id):
                blind[name] = "what it writes does not arrive here"
        if (refused := refusal(output, blind, len(nodes))) is not None:
            raise InputError(refused)
    finally:
        for name in folder.names(f"{marker}*"):
            folder.delete_file(name)


def refusal(output: str, blind: dict[str, str], num_nodes: int) -> str | None:
    """What to say where some nodes, by name with a reason each, cannot use the output; None where all can."""
    if not blind:
        return None
    reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(blind.items()))
    return f"[run] output: {output} is not shared by all {num_nodes} nodes of the cluster ({reasons}); {_MEND}"


def check_sees_run(experiment: Experiment) -> None:
    """For a worker, whose node may have joined after `check_shared`.

    Raises:
        InputError: the run's folder holds no config.json on this node.
    """
    output = experiment.run.output
    if not Folder.at(output).exists(CONFIG):
        raise InputError(f"[run] output: node {socket.gethostname()} does not see {output}/{CONFIG}; {_MEND}")


def _ask(nodes: dict[str, str], output: str, marker: str) -> dict[str, str]:
    """The nodes that cannot read or write, by name, with the reason."""
    asked = {on_node(look, node_id).remote(output, marker, _reply(marker, node_id)): node_id for node_id in nodes}
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_WAIT_SECONDS)
    blind = {nodes[asked[each]]: f"no answer within {_WAIT_SECONDS:.0f} s" for each in late if _is_alive(asked[each])}
    for each in ready:
        try:
            reason = ray.get(each)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1] if _is_alive(asked[each]) else None
        if reason is not None:
            blind[nodes[asked[each]]] = reason
    return blind


@ray.remote(num_cpus=0, max_retries=0)
def look(output: str, marker: str, reply: str) -> str | None:
    """On a node: why it does not see `marker` in the output, or cannot write `reply` beside it; None if all is well."""
    try:
        folder = Folder.at(output)
        if not _arrives(folder, marker):
            return "does not see the files of the others"
        folder.write_bytes(reply, b"")
    except InputError as error:
        return str(error)
    except OSError as error:
        return brief(error)
    return None


def _arrives(folder: Folder, name: str) -> bool:
    """Whether a file that another node wrote is there, now or soon: network file systems remember for some seconds."""
    deadline = time.monotonic() + _LAG_SECONDS
    while not folder.exists(name):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _reply(marker: str, node_id: str) -> str:
    return f"{marker}-{node_id}"


def _name(node: dict[str, object]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {str(node['NodeID'])[:6]})"


def _is_alive(node_id: str) -> bool:
    return any(node["NodeID"] == node_id for node in alive_nodes())
