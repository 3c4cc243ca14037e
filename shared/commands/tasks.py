"""Work that a control plane does for a command (`/history/tasks`): ordered, watched, cancelled by Ctrl-C."""

from __future__ import annotations

import json
from typing import Any

from shared.commands import output as printing
from shared.commands.client import Client
from shared.commands.failure import CommandFailed
from shared.commands.progress import progress

WAIT_MILLISECONDS = 1_000


def done(client: Client, order: dict[str, Any]) -> dict[str, Any]:
    """The task once it is done. Raises CommandFailed with its fault, or when it was interrupted."""
    task = client.post("/history/tasks", json.dumps(order).encode())
    place, said = f"/history/tasks/{task['id']}", 0
    try:
        with progress() as told:
            while task["standing"] == "running":
                task = client.get(place, waitMs=WAIT_MILLISECONDS)
                if task["progress"]:
                    told(*task["progress"])
                for remark in task["remarks"][said:]:
                    printing.say(remark)
                said = len(task["remarks"])
    except KeyboardInterrupt:
        client.delete(place)
        raise CommandFailed("interrupted; the task is cancelled") from None
    if task["standing"] != "done":
        raise CommandFailed(f"{client.api}: {task['fault']}")
    found: dict[str, Any] = task
    return found
