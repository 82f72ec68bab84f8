import os


def num_processors() -> int:
    """Processors that this process may use (fewer than the machine has, in a container or under a scheduler)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
