"""`worklode models` and `worklode presets`: what has a name."""

from __future__ import annotations

from worklode.cli.outcome import Outcome


def list_models() -> Outcome:
    """The zoo: name, parameters, what a step learns, default batch and sequence length."""
    from worklode.capture import zoo

    entries = [zoo.entry(name) for name in zoo.names()]
    document = {
        "models": [
            {
                "name": entry.name,
                "task": entry.task,
                "parameters": entry.parameters,
                "parameters_source": entry.parameters_source,
                "batch": entry.batch,
                "seq_len": entry.seq_len or None,
                "optimizer": entry.optimizer,
                "paper": entry.paper,
                "notes": entry.notes,
            }
            for entry in entries
        ]
    }

    def report() -> list[object]:
        from worklode.report.quantity import parameters
        from worklode.report.table import listing

        rows = [
            {
                "model": entry.name,
                "parameters": parameters(entry.parameters),
                "batch": entry.batch,
                "seq len": entry.seq_len or "",
                "optimizer": entry.optimizer,
                "step": entry.task,
            }
            for entry in entries
        ]
        return [listing(rows, right=("parameters", "batch", "seq len"))]

    return Outcome(document=document, report=report)
