"""Videos in and out: true times, upright images, damage reported, sound kept."""

import subprocess
import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from videos import Shown, frame_number, numbered_frame, set_display_matrix, shown, sound_seconds, top_boxes, write_video

from distilpose.errors import ConfigError, InputError
from distilpose.video import reader as reader_module
from distilpose.video import writer as writer_module
from distilpose.video.reader import VideoReader
from distilpose.video.writer import VideoWriter


def read(path: Path, **options: Any) -> list[Shown]:
    with VideoReader(path, **options) as reader:
        return shown(reader.frames())


def write(path: Path, frames: Iterable[Shown], size_hw: Any = (48, 64), **options: Any) -> Path:
    with VideoWriter(path, size_hw, **options) as writer:
        for frame in frames:
            writer.write(frame.image, frame.time)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """40 numbered frames at 10 a second."""
    return write_video(tmp_path / "video.mp4", [numbered_frame(n) for n in range(40)])


def test_every_frame_once_with_number_and_time(video: Path) -> None:
    frames = read(video)
    assert [frame.number for frame in frames] == list(range(40))
    assert [frame_number(frame.image) for frame in frames] == list(range(40))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(40) / 10, atol=1e-6)
    with VideoReader(video) as reader:
        assert (reader.size_hw, reader.num_frames) == ((48, 64), 40)
        assert reader.rate == pytest.approx(10)
        assert reader.duration == pytest.approx(4, abs=0.11)


@pytest.mark.parametrize(("start", "end", "every"), [(0, None, 3), (1.3, None, 1), (2.05, 3.0, 2), (0, 0.25, 1)])
def test_a_part_has_the_numbers_and_times_of_the_whole(
    video: Path, start: float, end: float | None, every: int
) -> None:
    first, last = -(-round(10 * start, 6) // 1), 40 if end is None else -(-round(10 * end, 6) // 1)
    frames = read(video, start=start, end=end, every=every)
    expected = list(range(int(first), int(last), every))
    assert [frame.number for frame in frames] == expected
    assert [frame_number(frame.image) for frame in frames] == expected
    np.testing.assert_allclose([frame.time for frame in frames], np.array(expected) / 10, atol=1e-6)
    with VideoReader(video, start=start, end=end, every=every) as reader:
        assert abs(reader.num_frames - len(expected)) <= 1


@pytest.mark.parametrize("rate", [25, 60])
def test_a_recording_without_a_rate_has_that_of_its_times(tmp_path: Path, rate: int) -> None:
    """Browsers record WebM unevenly and without the element DefaultDuration: FFmpeg takes the clock's 1000 a second."""
    times = (np.arange(40) + np.random.default_rng(0).uniform(0, 0.6, 40)) / rate
    images = [numbered_frame(n) for n in range(40)]
    video = write_video(tmp_path / "video.webm", images, times=times.round(3).tolist(), rate=rate, codec="libvpx")
    content = video.read_bytes()
    start = content.index(bytes.fromhex("23E383"))
    size = content[start + 3] - 0x80
    void = bytes([0xEC, 0x80 + 2 + size]) + bytes(2 + size)  # an element that says nothing, of the same length
    video.write_bytes(content[:start] + void + content[start + 4 + size :])
    with VideoReader(video) as reader:
        assert reader.rate == pytest.approx(rate, rel=0.03)
        assert len(shown(reader.frames())) == 40


def test_variable_frame_rate_keeps_true_times(tmp_path: Path) -> None:
    times = [0, 0.1, 0.15, 0.9, 1.0, 2.5]
    video = write_video(tmp_path / "video.mkv", [numbered_frame(n) for n in range(6)], times=times)
    np.testing.assert_allclose([frame.time for frame in read(video)], times, atol=2e-3)
    out = tmp_path / "out.mp4"
    write(out, read(video), rate=4)
    again = read(out)
    np.testing.assert_allclose([frame.time for frame in again], times, atol=2e-3)
    assert [frame_number(frame.image) for frame in again] == list(range(6))


MIRRORS = [(a, 0, 0, d) for a in (-1, 1) for d in (-1, 1)] + [(0, b, c, 0) for b in (-1, 1) for c in (-1, 1)]


@pytest.mark.parametrize("matrix", MIRRORS)
def test_the_whole_display_matrix_is_used(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    """All eight, see `set_display_matrix`."""
    a, b, c, d = matrix
    image = np.random.default_rng(0).integers(60, 200, (6, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    video = write_video(tmp_path / "video.mp4", [image] * 3)
    plain = read(video)[0].image[4::8, 4::8]
    set_display_matrix(video, *matrix)
    y, x = np.mgrid[:6, :8]
    across, down = x * a + y * c, x * b + y * d
    expected = np.zeros((np.ptp(down) + 1, np.ptp(across) + 1, 3), np.uint8)
    expected[down - down.min(), across - across.min()] = plain
    image = read(video)[0].image
    np.testing.assert_allclose(image[4::8, 4::8].astype(int), expected, atol=2)
    with VideoReader(video) as reader:
        assert reader.size_hw == image.shape[:2]


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", [numbered_frame(0)] * 3, pixel_aspect=Fraction(4, 3))
    assert read(video)[0].image.shape == (48, 85, 3)


def test_frames_have_a_largest_size(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(reader_module, "LARGEST_FRAME", 4_000)
    video = write_video(tmp_path / "video.mp4", [numbered_frame(0)] * 3, pixel_aspect=Fraction(4, 3))
    with pytest.raises(InputError, match=r"got 85 x 48 .pixel aspect 4/3"):
        VideoReader(video)


@pytest.mark.parametrize(  # matrix coefficients of ITU-T H.273: their number, weights of red and blue in Y'
    ("matrix", "red", "blue"),
    [(1, 0.2126, 0.0722), (5, 0.299, 0.114), (9, 0.2627, 0.0593)],
    ids=["BT.709", "BT.601", "BT.2020"],
)
def test_colors_are_those_of_the_file_s_standard(tmp_path: Path, matrix: int, red: float, blue: float) -> None:
    """Studio-range Y'CbCr by the formula of the standard, read as the RGB that it was made of."""
    rgb = np.array([(200, 30, 40), (30, 190, 60), (40, 50, 210), (180, 180, 20)], dtype=np.float64)
    luma = rgb @ [red, 1 - red - blue, blue]
    planes = [16 + luma * 219 / 255, 128 + (rgb[:, 2] - luma) / (2 - 2 * blue) * 224 / 255,
              128 + (rgb[:, 0] - luma) / (2 - 2 * red) * 224 / 255]  # fmt: skip
    yuv = np.stack([np.rint(plane).astype(np.uint8).repeat(16)[None].repeat(32, 0) for plane in planes])
    with av.open(str(tmp_path / "video.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv444p"
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 1
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(yuv, format="yuv444p")))
        container.mux(stream.encode(None))
    np.testing.assert_allclose(read(tmp_path / "video.mkv")[0].image[16, 8::16], rgb, atol=2)


def test_colors_survive_writing_and_reading(tmp_path: Path) -> None:
    image = np.zeros((96, 128, 3), dtype=np.uint8)
    image[:48, :64], image[:48, 64:], image[48:, :64], image[48:, 64:] = (
        (220, 40, 30),
        (30, 200, 60),
        (20, 60, 210),
        128,
    )
    with VideoWriter(tmp_path / "out.mp4", (96, 128)) as writer:
        for number in range(5):
            writer.write(image, number / 30)
    again = read(tmp_path / "out.mp4")[2].image
    for rows, columns in ((24, 32), (24, 96), (72, 32), (72, 96)):
        assert np.abs(again[rows, columns].astype(int) - image[rows, columns]).max() < 6


@pytest.mark.parametrize("size_hw", [(47, 63), (48, 63), (1, 1), (2, 301)])
def test_odd_sizes_are_read_and_written(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    video = write_video(tmp_path / "video.mkv", [numbered_frame(1, size_hw)] * 4)
    frames = read(video)
    assert frames[0].image.shape[:2] == size_hw
    write(tmp_path / "out.mp4", frames, size_hw)
    height, width = (side + side % 2 for side in size_hw)
    assert [frame.image.shape for frame in read(tmp_path / "out.mp4")] == [(height, width, 3)] * 4


@pytest.mark.parametrize(
    ("name", "codec", "written"), [("a.mp4", "aac", "aac"), ("a.mov", "pcm_s16le", "aac"), ("a.mkv", "libopus", "opus")]
)
def test_sound_is_kept_and_cut_like_the_images(tmp_path: Path, name: str, codec: str, written: str) -> None:
    video = write_video(tmp_path / name, [numbered_frame(n) for n in range(40)], sound=codec)
    out = tmp_path / "out.mp4"
    with (
        VideoReader(video, start=1.0, end=3.0) as reader,
        VideoWriter(out, reader.size_hw, rate=reader.rate, sound_of=video, start=1.0) as writer,
    ):
        for frame in shown(reader.frames()):
            writer.write(frame.image, frame.time)
    assert len(read(out)) == 20
    sound = sound_seconds(out)
    assert sound[0] == written
    assert 0 <= sound[1] < 0.1
    assert sound[2] == pytest.approx(1.95, abs=0.15)


@pytest.mark.parametrize(("start", "heard"), [(0.0, 1.5), (1.0, 0.5), (2.0, 0.0)])
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "pcm_s16le")])
def test_sound_that_begins_later_still_does(tmp_path: Path, name: str, codec: str, start: float, heard: float) -> None:
    video = write_video(tmp_path / name, [numbered_frame(n) for n in range(40)], sound=codec, sound_from=1.5)
    write(tmp_path / "out.mp4", read(video, start=start), rate=10, sound_of=video, start=start)
    sound = sound_seconds(tmp_path / "out.mp4")
    assert sound[1] == pytest.approx(heard, abs=0.06)
    assert sound[2] == pytest.approx(4 - start, abs=0.06)


def test_images_that_begin_later_still_do(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [numbered_frame(n) for n in range(30)], sound="aac")
    write(tmp_path / "out.mp4", read(video)[10:], rate=10, sound_of=video)
    sound = sound_seconds(tmp_path / "out.mp4")
    assert sound is not None
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert next(container.decode(video=0)).time - sound[1] == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("a.avi", "libmp3lame", 44100), ("a.mkv", "pcm_s16le", 5000), ("a.mkv", "pcm_s16le", 192000)],
)
def test_odd_sound_is_encoded_anew(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    video = write_video(tmp_path / name, [numbered_frame(n) for n in range(30)], sound=codec, sound_rate=rate)
    write(tmp_path / "out.mp4", read(video), rate=10, sound_of=video)
    sound = sound_seconds(tmp_path / "out.mp4")
    assert sound[0] == "aac"
    assert sound[2] == pytest.approx(3, abs=0.2)
    assert len(read(tmp_path / "out.mp4")) >= 29


def test_sound_that_cannot_be_brought_over_costs_no_images(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    video = write_video(tmp_path / "a.mp4", [numbered_frame(n) for n in range(20)], sound="aac")

    def fail(self: Any, packet: Any, at: float) -> None:
        raise av.error.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr(writer_module._Sound, "_bring", fail)
    write(tmp_path / "out.mp4", read(video), sound_of=video)
    assert len(read(tmp_path / "out.mp4")) == 20
    assert "its sound cannot be brought over (Invalid argument)" in caplog.text


def test_a_huge_video_is_written_smaller(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", (3, 20_000)) as writer:
        for number in range(3):
            writer.write(np.full((3, 20_000, 3), 50 * number, np.uint8), number / 30)
    assert read(tmp_path / "out.mp4")[0].image.shape == (2, 4096, 3)


def test_what_cannot_be_encoded_leaves_no_file(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(writer_module, "LARGEST_SIDE", 30_000)
    writer = VideoWriter(tmp_path / "out.mp4", (64, 20_000))
    with pytest.raises(InputError, match=r"out\.mp4 cannot be encoded as H\.264"):
        writer.write(np.zeros((64, 20_000, 3), np.uint8), 0)
    writer.close()
    writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "libx264"), ("a.avi", "mpeg4")])
@pytest.mark.parametrize("start", [0.5, 1.1, 2.0])
def test_formats_without_an_index_have_the_same_numbers(tmp_path: Path, name: str, codec: str, start: float) -> None:
    video = write_video(tmp_path / name, [numbered_frame(n) for n in range(40)], rate=25, codec=codec)
    whole = {frame.number: frame.time for frame in read(video)}
    part = {frame.number: frame.time for frame in read(video, start=start)}
    assert part == {number: time for number, time in whole.items() if time >= start - 1e-6}


def test_videos_joined_end_to_end_go_on(tmp_path: Path) -> None:
    one = write_video(tmp_path / "one.ts", [numbered_frame(n) for n in range(40)])
    (tmp_path / "two.ts").write_bytes(one.read_bytes() * 2)
    frames = [frame for frame in read(tmp_path / "two.ts") if frame.error is None]
    assert len(frames) >= 78
    steps = np.diff([frame.time for frame in frames])
    np.testing.assert_allclose(steps, 0.1, atol=0.11)
    assert frames[-1].time == pytest.approx(7.9, abs=0.3)


def test_damage_before_the_start_moves_no_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    video = write_video(tmp_path / "video.mp4", [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(60)])
    good = {frame.time: frame.number for frame in read(video)}
    data = bytearray(video.read_bytes())
    begin = data.index(b"mdat") + 8
    damage = begin + (len(data) - begin) * 35 // 60  # about frame 35, after the key frame 30
    data[damage : damage + 3000] = bytes(3000)
    video.write_bytes(data)
    frames = [frame for frame in read(video, start=4.5) if frame.error is None]
    assert frames
    assert [frame.number for frame in frames] == [good[frame.time] for frame in frames]


def test_a_video_without_sound_stays_without(video: Path, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", (48, 64), sound_of=video) as writer:
        writer.write(numbered_frame(0), 0)
    assert sound_seconds(tmp_path / "out.mp4") is None


def test_browsers_play_what_is_written(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", (48, 64)) as writer:
        for number in range(100):
            writer.write(numbered_frame(number % 40), number / 30)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.frames == 100
    assert set(top_boxes(tmp_path / "out.mp4")) <= {"ftyp", "free", "mdat", "moov"}  # no row of fragments in the end
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_damaged_frame_is_reported_and_the_next_ones_follow(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(30)]
    video = write_video(tmp_path / "video.mp4", noise)
    data = bytearray(video.read_bytes())
    middle = data.index(b"mdat") + 8 + (len(data) - data.index(b"mdat")) // 2
    data[middle : middle + len(data) // 10] = bytes(len(data) // 10)
    video.write_bytes(data)
    frames = read(video)
    broken = [frame for frame in frames if frame.error is not None]
    assert 1 <= len(broken) < 15
    assert all(frame.image is None for frame in broken)
    assert f"frame {broken[0].number} at {broken[0].time:.2f} s" in str(broken[0].error)
    assert frames[-1].error is None
    assert len(frames) - len(broken) >= 15


def test_what_is_no_video_is_refused(tmp_path: Path, video: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        VideoReader(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InputError, match=r"text\.mp4 cannot be read as a video .*complete"):
        VideoReader(tmp_path / "text.mp4")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot be read as a video"):
        VideoReader(cut)
    sound = tmp_path / "sound.m4a"
    with av.open(str(sound), "w") as container:
        tone = container.add_stream("aac", rate=48000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 48000
        container.mux(tone.encode(silence))
        container.mux(tone.encode(None))
    with pytest.raises(InputError, match=r"without an image track \(it holds audio\)"):
        VideoReader(sound)


def test_options_are_checked(video: Path) -> None:
    with pytest.raises(ConfigError, match="every"):
        VideoReader(video, every=0)
    with pytest.raises(ConfigError, match="start < end"):
        VideoReader(video, start=2, end=2)
    assert read(video, start=9) == []
    assert [frame.number for frame in read(video, start=1, end=1.01)] == [10]
    assert [frame.number for frame in read(video, start=3.85)] == [39]


def test_pyav_missing_says_what_to_install(video: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"distilpose\[video\]"):
        VideoReader(video)


def test_a_killed_writer_leaves_a_video_that_plays(tmp_path: Path) -> None:
    code = (
        "import os, numpy as np\n"
        "from distilpose.video.writer import VideoWriter\n"
        f"writer = VideoWriter({str(tmp_path / 'out.mp4')!r}, (48, 64), rate=10)\n"
        "for n in range(200):\n"
        "    writer.write(np.full((48, 64, 3), n, np.uint8), n / 10)\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (part,) = tmp_path.iterdir()
    frames = read(part)
    assert len(frames) >= 140
    assert all(frame.error is None for frame in frames)


def test_a_full_disk_leaves_a_video_that_plays(tmp_path: Path) -> None:
    code = (
        "import resource, numpy as np\n"
        "from distilpose.video.writer import VideoWriter\n"
        f"writer = VideoWriter({str(tmp_path / 'out.mp4')!r}, (96, 128), rate=10)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "noise = np.random.default_rng(0).integers(0, 255, (400, 96, 128, 3), dtype=np.uint8)\n"
        "try:\n"
        "    for n, image in enumerate(noise):\n"
        "        writer.write(image, n / 10)\n"
        "except OSError as error:\n"
        "    print('stopped', n)\n"
        "try:\n"
        "    writer.close()\n"
        "except OSError as error:\n"
        "    print('closed')\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told[0] == "stopped"
    frames = read(tmp_path / "out.mp4")
    assert len(frames) >= int(told[1]) - 45
    assert len(frames) > 5


def test_a_planted_link_is_not_followed_by_a_video(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".out.mp4.part").symlink_to(victim)
    with VideoWriter(tmp_path / "out.mp4", (48, 64)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), 0.0)
    assert (victim.read_text(), len(read(tmp_path / "out.mp4"))) == ("precious", 1)
