r"""Poses of mediapipe's BlazePose as COCO results, to measure them beside ours.

mediapipe pins old versions of NumPy: install it into an environment of its own (Python 3.11 or 3.12).

    python3.11 -m venv mediapipe_env && mediapipe_env/bin/pip install "mediapipe<0.10.22"
    mediapipe_env/bin/python benchmarks/mediapipe_poses.py coco_val_dev/person_keypoints.json \
        coco_val_dev/images poses.json
    distilpose evaluate --annotations coco_val_dev/person_keypoints.json --predictions poses.json

BlazePose finds one person an image, by a detector of its own; it gets no boxes. Its 33 points hold COCO's 17.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

BLAZEPOSE_OF_COCO = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    import mediapipe as mp

    results = []
    with mp.solutions.pose.Pose(static_image_mode=True, model_complexity=1) as blazepose:
        for entry in json.loads(options.annotations.read_text())["images"]:
            image = cv2.cvtColor(cv2.imread(str(options.images / entry["file_name"])), cv2.COLOR_BGR2RGB)
            found = blazepose.process(image).pose_landmarks
            if found is None:
                continue
            points = np.array([(point.x, point.y, point.visibility) for point in found.landmark])
            keypoints = points[list(BLAZEPOSE_OF_COCO)] * (image.shape[1], image.shape[0], 1)
            score = float(keypoints[:, 2].mean())
            results.append(
                {"image_id": entry["id"], "category_id": 1, "keypoints": keypoints.ravel().tolist(), "score": score}
            )
    options.out.write_text(json.dumps(results))
    print(f"{len(results)} people written to {options.out}")


if __name__ == "__main__":
    main()
