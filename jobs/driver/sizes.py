"""Memory for cases by the size of their files, so that large ones do not meet on one node."""

from collections.abc import Iterator, Mapping, Sequence

LARGE = 128 << 20  # bytes of a case's files, from which on it asks for memory; BraTS's have 10 to 40 MB
MEMORY_A_BYTE = 10  # of its files; benchmarks.peak measures half of it for a case of BraTS


def by_size(rows: Sequence[dict]) -> Iterator[tuple[list[dict], dict[str, float]]]:
    """The rows of large cases, with the memory to ask Ray for each; then those of all others, with none.

    Ray reserves the same for every task of a stage, so one large case among many would hold them all back.
    """
    large = [row for row in rows if row["bytes"] > LARGE]
    if large:
        yield large, {"memory": float(MEMORY_A_BYTE * max(row["bytes"] for row in large))}
    if len(large) < len(rows):
        yield [row for row in rows if row["bytes"] <= LARGE], {}


def within_a_node(resources: Mapping[str, float]) -> dict[str, float]:
    """No more memory than the largest node has: a task that asks for more would wait without end."""
    import ray

    asked = dict(resources)
    if "memory" in asked:
        nodes = (node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
        asked["memory"] = min(asked["memory"], max(nodes, default=0) or asked["memory"])
    return asked
