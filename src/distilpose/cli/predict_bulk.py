"""Poses in more images than one process can do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distilpose.cli.command import Command, printable

if TYPE_CHECKING:
    from distilpose.bulk.options import BulkOptions


def _run(options: BulkOptions) -> int:
    from distilpose.bulk.predict import predict_bulk

    report = predict_bulk(options, progress=True)
    for failure in report.failures:
        print(printable(f"failed: {failure}"), file=sys.stderr)
    if report.num_failed > len(report.failures):
        more = report.num_failed - len(report.failures)
        print(f"failed: {more} more, see the column error in {report.images}", file=sys.stderr)
    again = f" ({report.num_resumed} of {report.num_shards} shards were there)" if report.num_resumed else ""
    done = f"{report.num_images} images, {report.num_people} people, {report.num_failed} failed"
    print(printable(f"{done}{again} -> {report.poses} and {report.images}"))
    return 1 if report.num_failed else 0


PREDICT_BULK = Command(
    "find poses in very many images, by many processes or machines; writes Parquet, goes on where it was stopped",
    (
        "photos --out poses",
        "'shards/*.tar' --out poses --detector whole-image --model student.onnx",
        "list.parquet --out poses --boxes boxes --ids id --model student.xml --workers 8",
        "/nfs/list.parquet --out /nfs/poses --boxes boxes --model /nfs/student.onnx --address auto",
    ),
    "distilpose.bulk.options:BulkOptions",
    _run,
)
