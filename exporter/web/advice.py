"""What the pages advise: about an operation or a group that needs attention, and the commands for a shell. Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

from exporter import wording
from exporter.operation import Status
from exporter.tracking import facts
from exporter.tracking.group_facts import GroupState
from exporter.tracking.transitions import LOST

if TYPE_CHECKING:
    from exporter.operation import Operation
    from exporter.tracking.group_facts import GroupFacts
    from exporter.tracking.snapshot import Entry
    from exporter.tracking.transitions import Moment


class Command(NamedTuple):
    """What a command is for, and the command."""

    purpose: str
    text: str


class Advice(NamedTuple):
    """What to do about an operation: what its state means, steps (some without a command), and the runbook."""

    meaning: str
    steps: tuple[Command, ...]
    runbook: str


def operation_advice(entry: Entry, now: Moment, url: str) -> Advice | None:
    """Say what to do about an operation; None where it needs no attention."""
    key, record = entry.tracked.key, entry.tracked.operation
    place = f"--environment={shlex.quote(key.environment)}"
    get = Command("Ask Knock what it says now.", f"knock-exporter get {place} {key.id}")
    forget = Command(
        "Handled? Remove the operation from this page and from the alerts. The counters keep it.",
        f"knock-exporter forget {place} --token-file=register.token --url={shlex.quote(url)} {key.id}",
    )
    if entry.state == Status.FAILED or facts.completed_with_errors(entry):
        counts = (record.error_items, record.errors) if record is not None else ()
        failed, known = entry.state == Status.FAILED, [each for each in counts if each is not None]
        again = "Then run the whole operation again: Knock does not list the rows that it did not process."
        if not failed:
            again = "Then run an operation with the failed items only."
        read = Command(
            f"Read the failed items{'' if any(known) else ', if there are any'}.",
            f"knock-exporter errors {place} {key.id}",
        )
        steps = (*([] if known and not any(known) else [read]), Command(f"Correct the data. {again}", ""), forget)
        meaning = _failed(record) if failed else "Knock completed this operation, but some items failed."
        return Advice(meaning, steps, "KnockOperationFailed" if failed else "KnockOperationCompletedWithErrors")
    if facts.stalled(entry, now):
        since = entry.tracked.last_change or entry.tracked.handed_over
        unchanged = wording.span(now.mono - since.mono)
        meaning = f"Knock says that it processes this operation, but nothing has changed for {unchanged}."
        return Advice(meaning, (get,), "KnockOperationStalled")
    if facts.stale(entry, now) and entry.tracked.missing_since is not None:
        return Advice(
            "Knock answers 404: it does not know this id. Does the id belong to this environment and this branch?",
            (get, forget),
            "KnockOperationsStale",
        )
    if facts.stale(entry, now):
        return Advice(
            "The last successful poll of this operation is older than planned. The values shown are old.",
            (get,),
            "KnockOperationsStale",
        )
    if entry.state == LOST:
        return Advice(
            "Knock answers that it does not know this operation. The exporter has stopped polling it.",
            (get, forget),
            "KnockOperationsLost",
        )
    return None


def _failed(record: Operation | None) -> str:
    if record is None or not record.rows_estimated or record.rows_processed is None:
        return "This operation failed. Knock gives no reason."
    rest = max(0, record.rows_estimated - record.rows_processed)
    missing = f"About {rest:,} of {record.rows_estimated:,} rows were not processed."
    return f"This operation failed. Knock gives no reason. {missing}"


class GroupTrouble(NamedTuple):
    """Why a group needs somebody to look, and the runbook about it."""

    text: str
    runbook: str


def group_troubles(it: GroupFacts, now: Moment) -> list[GroupTrouble]:
    """Say why a group needs somebody to look, but for what can be listed."""
    told: list[GroupTrouble] = []
    run = it.run
    if it.every is not None and it.last_run is not None and now.wall - it.last_run > it.every:
        late = f"the last run began {wording.span(now.wall - it.last_run)} ago"
        text = f"It did not run: {late}, and at least one is expected every {wording.span(it.every)}."
        told.append(GroupTrouble(text, "KnockGroupDidNotRun"))
    if run is not None and run.finished is None and it.deadline is not None and now.wall > it.deadline:
        text = f"It is late: its deadline passed {wording.span(now.wall - it.deadline)} ago."
        told.append(GroupTrouble(text, "KnockGroupMissedDeadline"))
    if it.is_incomplete(now.wall) and run is not None and run.operations is not None:
        missing = run.operations - sum(it.run_sums.states)
        they = wording.counted(missing, "operation was", "operations were")
        told.append(GroupTrouble(f"It is incomplete: {they} not created or not registered.", "KnockGroupIncomplete"))
    if it.state is GroupState.STALLED:
        text = "It is stalled: an operation is processing, but its numbers do not change."
        told.append(GroupTrouble(text, "KnockOperationsStalled"))
    return told


def group_commands(it: GroupFacts, url: str) -> list[Command]:
    """Write the commands that help with a group, as a shell takes them."""
    where, of_group = f"--url={shlex.quote(url)}", f"--group={shlex.quote(it.group)}"
    place = f"--environment={shlex.quote(it.environment)}"
    found = [
        Command("Watch it until it has finished", f"knock-exporter watch {place} {of_group} {where}"),
        Command(
            "List operations that need attention",
            f"knock-exporter list {place} {of_group} --status=needs_attention {where}",
        ),
        Command("Read the failed items from Knock", f"knock-exporter errors {place} {of_group} {where}"),
        Command(
            "Remove operations that failed or have errors, once they are handled; the run still counts them",
            f"knock-exporter forget {place} --token-file=register.token {of_group} --status=failed"
            f" --status=with_errors {where}",
        ),
    ]
    if it.run is not None and it.run.finished is None:
        last = f"--run={shlex.quote(it.run.id)} -- {shlex.quote(it.group)}"
        close, known = f"knock-exporter group close {place} --token-file=register.token", sum(it.run_sums.states)
        if it.run.closed is None:
            found.append(Command("Close the run: everything is submitted", f"{close} {where} {last}"))
        if it.run.operations is not None and known < it.run.operations:
            rest = f"{close} --operations={known} {where} {last}"
            found.append(Command("Give up what is missing: close the run with the operations that it has", rest))
    return found
