"""Poses in more images than one process can do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distilpose.bulk import SHARD_SIZE
from distilpose.cli.command import DEFAULT_MODEL, FLIP_TEST_HELP, FLIP_TESTS, Command

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

SOURCE_HELP = "folder of images, with all below it; Parquet list of paths; tar shards; or a pattern: 'shards/*.tar'"
MODEL_HELP = (
    "exported file (.onnx, .xml), checkpoint, or "
    f"{DEFAULT_MODEL}, which comes with the package (default); a checkpoint is exported first where that is possible"
)
ADDRESS_HELP = "Ray cluster: auto on one of its machines, or HOST:6379; it sees SOURCE and DIR where this machine does"
DETECTOR_HELP = "as of predict: hog, hf:FOLDER, onnx:FILE, whole-image (default: auto, if there is no --boxes)"
ACCEPT_HELP = (
    "write failures as rows also where storage seems to be at fault: input or output errors, or a shard whose images "
    "are all missing"
)
BOXES_HELP = "column of a list with the people of each image, a list of x1, y1, x2, y2; in place of a detector"


def _arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help=SOURCE_HELP)
    add("--out", required=True, metavar="DIR", help="folder of the results; a run that was stopped goes on in it")
    add("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help=MODEL_HELP)
    add("--address", metavar="RAY", help=ADDRESS_HELP)
    add("--detector", metavar="NAME", help=DETECTOR_HELP)
    add("--boxes", metavar="COLUMN", help=BOXES_HELP)
    add("--box-scores", metavar="COLUMN", help="column of a list with the scores of --boxes (default: 1 each)")
    add("--paths", default="path", metavar="COLUMN", help="column of a list with the images (default: path)")
    add("--ids", metavar="COLUMN", help="column of a list that becomes image_id: whole numbers or texts")
    add("--root", metavar="DIR", help="folder that relative paths of a list start from (default: where the list lies)")
    add("--detection-threshold", type=float, metavar="S", help="leave out boxes with a lower score")
    add("--max-people", type=int, metavar="N", help="of each image, those with the best boxes")
    add("--flip-test", choices=FLIP_TESTS, default="off", help=FLIP_TEST_HELP)
    add("--workers", type=int, metavar="N", help="processes (default: cores of all machines / --threads)")
    add("--threads", type=int, default=1, metavar="N", help="cores of each worker (default: 1)")
    add("--batch-size", type=int, default=8, metavar="N", help="crops per run of the model (default: 8)")
    add(
        "--shard-size",
        type=int,
        default=SHARD_SIZE,
        metavar="N",
        help=f"images per output file (default: {SHARD_SIZE})",
    )
    add("--retry-failed", action="store_true", help="do output files with failed images again")
    add("--accept-failures", action="store_true", help=ACCEPT_HELP)


def _run(args: Namespace) -> int:
    from distilpose.bulk.lists import ListColumns
    from distilpose.bulk.predict import predict_bulk

    report = predict_bulk(
        args.source,
        args.out,
        model=args.model,
        address=args.address,
        columns=ListColumns(args.paths, args.ids, args.boxes, args.box_scores),
        root=args.root,
        detector=args.detector if args.boxes or args.detector else "auto",
        detection_threshold=args.detection_threshold,
        max_people=args.max_people,
        flip_test=args.flip_test,
        workers=args.workers,
        threads=args.threads,
        batch_size=args.batch_size,
        shard_size=args.shard_size,
        retry_failed=args.retry_failed,
        accept_failures=args.accept_failures,
        progress=True,
    )
    for failure in report.failures:
        print(f"failed: {failure}", file=sys.stderr)
    if report.num_failed > len(report.failures):
        more = report.num_failed - len(report.failures)
        print(f"failed: {more} more, see the column error in {report.images}", file=sys.stderr)
    again = f" ({report.num_resumed} of {report.num_shards} shards were there)" if report.num_resumed else ""
    done = f"{report.num_images} images, {report.num_people} people, {report.num_failed} failed"
    print(f"{done}{again} -> {report.poses} and {report.images}")
    return 1 if report.num_failed else 0


PREDICT_BULK = Command(
    "find poses in very many images, by many processes or machines; writes Parquet, goes on where it was stopped",
    (
        "photos --out poses --detector onnx:detector.onnx",
        "'shards/*.tar' --out poses --detector whole-image --model student.onnx",
        "list.parquet --out poses --boxes boxes --ids id --model student.xml --workers 8",
        "/nfs/list.parquet --out /nfs/poses --boxes boxes --model /nfs/student.onnx --address auto",
    ),
    _arguments,
    _run,
)
