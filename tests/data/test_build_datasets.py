"""The script that builds the training sets, on small folders laid out as the official sources are."""

import importlib.util
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from distilpose.data.coco import load_person_samples
from distilpose.skeletons import COCO_17

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "coco_val_dev"


@pytest.fixture
def build(tmp_path, monkeypatch) -> ModuleType:
    """The script, with a short list of images."""
    spec = importlib.util.spec_from_file_location("build_datasets", ROOT / "examples" / "data" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ids = {"coco_val_dev": "7", "coco_val_train": "8-9", "stanford40": {"waving_hands": "2"}, "lspet": "1 3"}
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    monkeypatch.setattr(module, "IDS", tmp_path / "ids.json")
    return module


def run(module: ModuleType, monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["build.py", *map(str, words)])
    module.main()


def photo(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()).save(path, quality=95)


def coco_folder(folder: Path) -> Path:
    """Three images; of the two to train on one has a person, a crowd and one without keypoints."""
    keypoints = [0.0] * 51
    keypoints[:3] = [300.0, 200.0, 2]
    person = {"category_id": 1, "bbox": [240, 80, 150, 400], "area": 9000.0, "iscrowd": 0}
    annotations = [
        {**person, "id": 1, "image_id": 7, "keypoints": keypoints, "num_keypoints": 1},
        {**person, "id": 2, "image_id": 8, "keypoints": keypoints, "num_keypoints": 1},
        {**person, "id": 3, "image_id": 8, "keypoints": keypoints, "num_keypoints": 1, "iscrowd": 1},
        {**person, "id": 4, "image_id": 9, "keypoints": [0] * 51, "num_keypoints": 0},
    ]
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 600} for i in (7, 8, 9)]
    for image in images:
        photo(folder / "val2017" / image["file_name"], 640, 600)
    names = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoint_names), "skeleton": []}
    file = folder / "person_keypoints_val2017.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [names]}))
    return file


def test_a_folder_without_the_images_is_told(build, tmp_path, monkeypatch, capsys) -> None:
    file = coco_folder(tmp_path)
    with pytest.raises(SystemExit, match=r"expected 1 images of val2017 in .*, found 0"):
        run(build, monkeypatch, "coco", "--annotations", file, "--images", tmp_path / "elsewhere", "--out", tmp_path)


def archive(file: Path, folder: Path, *names: str) -> None:
    """A zip as it is downloaded, with some other files in it."""
    with zipfile.ZipFile(file, "w") as content:
        for path in sorted(each for name in names for each in [folder / name, *(folder / name).rglob("*")]):
            if path.is_file():
                content.write(path, path.relative_to(folder))
        content.writestr("__MACOSX/._README.txt", "Mac OS X")
        content.writestr("README.txt", "as its makers wrote it")


def stanford_folder(folder: Path) -> None:
    photo(folder / "JPEGImages" / "waving_hands_002.jpg", 300, 200)
    photo(folder / "JPEGImages" / "waving_hands_003.jpg", 300, 200)  # not in our list
    (folder / "XMLAnnotations").mkdir()
    (folder / "XMLAnnotations" / "waving_hands_002.xml").write_text(
        "<annotation><filename>waving_hands_002.jpg</filename><object><name>person</name><action>waving_hands</action>"
        "<bndbox><xmax>200</xmax><xmin>100</xmin><ymax>150</ymax><ymin>50</ymin></bndbox></object></annotation>"
    )


def lspet_folder(folder: Path) -> None:
    joints = np.zeros((14, 3, 3))
    joints[:, 0, :] = np.arange(14)[:, None] * 10 + 20
    joints[:, 1, :] = 60
    joints[:, 2, :] = 1
    joints[0, 2, 2] = 0  # the right ankle of the last person is not labeled
    for number in (1, 2, 3):
        photo(folder / "images" / f"im{number:05d}.jpg", 240, 160)
    pytest.importorskip("scipy.io").savemat(folder / "joints.mat", {"joints": joints})


def test_downloaded_archives_become_training_sets_by_the_documented_commands(build, tmp_path, monkeypatch) -> None:
    made, here = tmp_path / "made", tmp_path / "here"
    file = coco_folder(made / "coco")
    (made / "coco" / "annotations").mkdir()
    file.rename(made / "coco" / "annotations" / file.name)
    stanford_folder(made / "stanford")
    lspet_folder(made / "lspet")
    archive(tmp_path / "annotations_trainval2017.zip", made / "coco", "annotations")
    archive(tmp_path / "val2017.zip", made / "coco", "val2017")
    archive(tmp_path / "Stanford40_JPEGImages.zip", made / "stanford", "JPEGImages")
    archive(tmp_path / "Stanford40_XMLAnnotations.zip", made / "stanford", "XMLAnnotations")
    archive(tmp_path / "lspet_dataset.zip", made / "lspet", "images", "joints.mat")
    for zipped in tmp_path.glob("*.zip"):
        place = {"S": "Stanford40", "l": "lspet"}.get(zipped.name[0], "")
        shutil.unpack_archive(zipped, here / place)
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python examples/data/build.py (.*)$", page, flags=re.MULTILINE)
    monkeypatch.chdir(here)
    for command in commands:
        run(build, monkeypatch, *command.split())
    sets = {name: here / "data" / name for name in (*build.EXPECTED, "coco_val_dev")}
    found = {
        name: load_person_samples(folder / "person_keypoints.json", folder / "images", keep_unlabeled=True).samples
        for name, folder in sets.items()
    }
    assert {name: len(samples) for name, samples in found.items()} == {
        "coco_val_train_crops": 1,
        "stanford40_pseudo_crops": 1,
        "lspet_train_crops": 2,
        "coco_val_dev": 1,
    }
    # Labels of a crop lie where they lay on the image: the ramp has the same value under the keypoint.
    (sample,) = found["coco_val_train_crops"]
    crop = np.asarray(Image.open(sample.image_path).convert("L"), dtype=float)
    assert crop.shape[0] == 288
    x, y = (round(float(value)) for value in sample.xy_img[0])
    assert crop[y, x] == pytest.approx(300 / 639 * 255, abs=2)

    documents = {name: json.loads((folder / "person_keypoints.json").read_text()) for name, folder in sets.items()}
    assert [image["id"] for image in documents["coco_val_dev"]["images"]] == [7]
    (item,), (image,) = (documents["stanford40_pseudo_crops"][name] for name in ("annotations", "images"))
    assert (item["id"], image["source"]) == (100_001, "waving_hands_002")
    # 3:4 around 100 x 100 is 100 x 133; padded 150 x 200, cut at the image's edge: the box begins 25 from the left.
    assert (image["width"], image["height"]) == (150, 200)
    assert item["bbox"] == [25.0, 50.0, 100.0, 100.0]
    lspet = documents["lspet_train_crops"]
    assert [image["source"] for image in lspet["images"]] == ["1", "3"]
    first, last = (np.array(item["keypoints"]).reshape(17, 3) for item in lspet["annotations"])
    assert not first[:5].any()  # no face
    assert first[16, 0] < first[14, 0] < first[12, 0]  # right ankle, knee, hip: rows 0, 1, 2 of the source
    assert last[16, 2] == 0
    assert lspet["annotations"][0]["id"] == 200_001

    ids = [sample.annotation_id for name in build.EXPECTED for sample in found[name]]
    assert len(set(ids)) == 4
    assert (found["lspet_train_crops"][0].visibility > 0).sum() == 12
    assert all(sample.image_path.is_file() for samples in found.values() for sample in samples)


def test_the_lists_are_those_of_the_model_card(build, monkeypatch) -> None:
    monkeypatch.setattr(build, "IDS", ROOT / "examples" / "data" / "ids.json")
    dev, train = set(build.wanted("coco_val_dev")), set(build.wanted("coco_val_train"))
    assert len(dev) == 120
    assert not dev & train
    assert sum(map(len, build.wanted("stanford40").values())) == build.EXPECTED["stanford40_pseudo_crops"]
    assert len(build.wanted("lspet")) == build.EXPECTED["lspet_train_crops"]


@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data/coco_val_dev")
def test_real_annotations_give_the_same_dev_set(build, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(build, "IDS", ROOT / "examples" / "data" / "ids.json")
    real = json.loads((REAL / "person_keypoints.json").read_text())
    build.write_dev(real, REAL / "images", tmp_path / "dev")
    built = json.loads((tmp_path / "dev" / "person_keypoints.json").read_text())
    assert built["annotations"] == real["annotations"]
    assert {image["id"] for image in built["images"]} == {image["id"] for image in real["images"]}
