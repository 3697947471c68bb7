"""A page that draws the people of an uploaded image or of the camera: the shipped detector and student, in Gradio.

    pip install distilpose gradio
    python examples/gradio_app.py                    # http://127.0.0.1:7860
    python examples/gradio_app.py --model student.onnx --port 8080

`distilpose serve` shows a page of its own that needs no Gradio; this file is for Spaces and notebooks.
"""

from __future__ import annotations

import argparse
from typing import Any

import gradio
import numpy as np
from numpy.typing import NDArray

import distilpose


def build(model: str = "distilpose_mobilenet", detector: str = "auto") -> gradio.Interface:
    """The page; its models are loaded here, once."""
    estimator = distilpose.PoseEstimator(model=model, detector=detector)

    def find_people(image: NDArray[np.uint8] | None) -> tuple[NDArray[np.uint8] | None, Any]:
        """(H, W, 3) uint8 RGB -> the same with the people drawn, and a table with a row for each keypoint."""
        if image is None:
            return None, None
        try:
            result = estimator(image)
        except distilpose.DistilPoseError as error:
            raise gradio.Error(str(error)) from error
        return result.draw(), result.to_pandas()

    return gradio.Interface(
        find_people,
        gradio.Image(sources=["upload", "webcam", "clipboard"], label="image"),
        [gradio.Image(label="people"), gradio.Dataframe(label="keypoints")],
        title="distilpose",
        description=f"{model}: keypoints of every person. The image stays on this machine.",
        flagging_mode="never",
    )


def main() -> None:
    """Serve the page until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="distilpose_mobilenet", help="what load_model takes")
    parser.add_argument("--detector", default="auto", help="as in distilpose predict")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()
    build(options.model, options.detector).launch(server_name=options.host, server_port=options.port)


if __name__ == "__main__":
    main()
