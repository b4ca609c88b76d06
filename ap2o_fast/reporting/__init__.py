"""What a person sees of a run: progress and tables in the terminal, metrics files, the report, the model card."""

from ap2o_fast.reporting.bookview import view
from ap2o_fast.reporting.metrics import MetricsSink, read_lines, truncate
from ap2o_fast.reporting.modelcard import write_model_card
from ap2o_fast.reporting.report import write_report
from ap2o_fast.reporting.run import Run, read_run
from ap2o_fast.reporting.terminal import Stage, print_results, progress

__all__ = [
    "MetricsSink",
    "Run",
    "Stage",
    "print_results",
    "progress",
    "read_lines",
    "read_run",
    "truncate",
    "view",
    "write_model_card",
    "write_report",
]
