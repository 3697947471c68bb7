"""An hour of video in bounded memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import json, os, resource, sys
import numpy as np
sys.path[:0] = {tests!r}
from known_model import BrightestPixel
from videos import write_video
from test_pipeline import SpotDetector, SpotPose, spot_image, spot_xy
from distilpose.inference.options import OutputOptions, PredictOptions
from distilpose.inference.predict import predict_files
from pathlib import Path

folder = Path({folder!r})
images = [spot_image(spot_xy(number)) for number in range(50)]
class Loop:
    def __len__(self): return {frames}
    def __getitem__(self, n):
        if n >= {frames}: raise IndexError
        return images[n % 50]
video = write_video(folder / "hour.mp4", Loop())

def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

class Watched(SpotPose):
    crops, memory = 0, []
    def __call__(self, images):
        self.crops += len(images)
        if self.crops % 400 < len(images):
            self.memory.append(megabytes())
        return super().__call__(images)

model = Watched(BrightestPixel())
output = OutputOptions(format=["jsonl", "parquet"])
report = predict_files(PredictOptions([video], folder / "out", model=model, detector=SpotDetector(), output=output))
people = len(report.predictions.read_text().splitlines()) - 2
print(json.dumps(dict(frames=report.num_frames, people=people, memory=model.memory)))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_an_hour_of_video_takes_no_more_memory_than_a_minute(tmp_path: Path) -> None:
    """36,000 frames at 10 a second, drawn, with every kind of output."""
    code = CODE.format(
        tests=[str(folder) for folder in Path(__file__).parents[:2]], folder=str(tmp_path), frames=36_000
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    memory = told["memory"]
    sys.stdout.write(f"MB after {', '.join(f'{m:.0f}' for m in memory[::15])}; in the end {memory[-1]:.0f}\n")
    assert told["frames"] == 36_000
    assert told["people"] >= 35_000  # the spot starts anew each five seconds
    first_minutes = max(memory[1:8])
    assert max(memory) < first_minutes + 150  # a part of the Parquet folder in the making, and what malloc keeps
