"""A checkpoint is data: it loads without running anything, or it is refused by name; what we write, plain ultralytics loads."""

from __future__ import annotations

import errno
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers import NAMES, tiny_dataset, tiny_model, tiny_yaml
from toolchain.errors import CheckpointError, DiskFullError, ModelError, UnsafeCheckpointError
from toolchain.yolo.checkpoint import load_model, save_checkpoint

PICTURE = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)


def outputs(module: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return module(PICTURE)[0]


def write(path: Path, **content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pt"
    save_checkpoint(path, tiny_model(), names=NAMES, train_args={"imgsz": 64, "data": Path("a/b.yaml")}, extra={"kept": [1, 2]})
    return path


def test_what_is_saved_comes_back(saved: Path) -> None:
    loaded = load_model(saved)
    assert torch.equal(outputs(loaded.module), outputs(tiny_model()))
    assert (loaded.names, loaded.stride, loaded.imgsz, loaded.extra) == (NAMES, 16, 64, {"kept": [1, 2]})
    assert loaded.train_args["data"] == "a/b.yaml"
    assert not loaded.module.training
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    frozen = [name for name, p in loaded.module.named_parameters() if not p.requires_grad]
    assert frozen == ["model.10.dfl.conv.weight"]


def test_saving_leaves_the_module_alone(tmp_path: Path) -> None:
    module = tiny_model().train()
    module.criterion = object()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    save_checkpoint(tmp_path / "a.pt", module, names=NAMES, train_args={}, extra={})
    assert module.training
    assert "criterion" in vars(module)
    assert all(p.requires_grad for name, p in module.named_parameters() if "dfl" not in name)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_ema_wins_over_model_and_half_becomes_float(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.pt", model=tiny_model(seed=1), ema=tiny_model(seed=2).half(), epoch=3, train_args={"imgsz": [64, 96]}
    )
    loaded = load_model(path)
    assert torch.equal(outputs(loaded.module), outputs(tiny_model(seed=2).half().float()))
    assert loaded.imgsz == 96


def test_old_checkpoints_are_brought_up_to_date(tmp_path: Path) -> None:
    from ultralytics.utils import IterableSimpleNamespace
    from ultralytics.utils.loss import v8DetectionLoss

    module = tiny_model()
    module.args = IterableSimpleNamespace(box=7.5, cls=0.5, dfl=1.5, tal_topk=10)
    module.criterion = v8DetectionLoss(module)
    module.names = list(NAMES.values())
    del module.stride
    vars(module)["end2end"] = False
    head = module.model[-1]
    vars(head).update(end2end=True, export=True, format="onnx")
    for layer in module.modules():
        vars(layer).pop("recompute_scale_factor", None)
    path = write(
        tmp_path / "old.pt",
        model=module,
        best_fitness=np.float64(0.5),
        train_args={"imgsz": 64, "model": pathlib.PurePosixPath("/x/y.yaml"), "save_dir": Path("/runs/a")},
        train_results={"mAP": np.float32(0.25), "epochs": np.int64(7)},
    )
    loaded = load_model(path)
    assert loaded.names == NAMES
    assert loaded.train_args["model"] == "/x/y.yaml"
    assert torch.equal(outputs(loaded.module), outputs(tiny_model()))
    assert not hasattr(loaded.module, "criterion")


def test_numpy_numbers_are_read_as_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", model=tiny_model(), edge_toolchain={"map": np.float64(0.5), "n": np.int64(3)}, train_args={})
    assert load_model(path).extra == {"map": 0.5, "n": 3}


def test_a_fused_checkpoint_still_runs(tmp_path: Path) -> None:
    path = write(tmp_path / "fused.pt", model=tiny_model().fuse(verbose=False))
    assert torch.allclose(outputs(load_model(path).module), outputs(tiny_model()), atol=1e-3)


# ---------------------------------------------------------------------------------------------- files that are not checkpoints


def _truncated(path: Path, good: bytes) -> None:
    path.write_bytes(good[: len(good) // 2])


def _zip(path: Path, good: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def _torchscript(path: Path, good: bytes) -> None:
    torch.jit.save(torch.jit.script(nn.ReLU()), str(path))


def _weights_only(path: Path, good: bytes) -> None:
    torch.save({"model": tiny_model().state_dict()}, path)


BROKEN = {
    "empty": (lambda path, good: path.write_bytes(b""), "empty"),
    "truncated": (_truncated, "damaged"),
    "end missing": (lambda path, good: path.write_bytes(good[:-30]), "damaged"),
    "picture": (lambda path, good: path.write_bytes(b"\xff\xd8\xff\xe0 not a model"), "not a checkpoint"),
    "a zip": (_zip, "not a torch checkpoint"),
    "torchscript": (_torchscript, "TorchScript"),
    "a list": (lambda path, good: torch.save([1, 2], path), "not an ultralytics checkpoint"),
    "weights only": (_weights_only, "holds no model"),
    "old torch format": (lambda path, good: torch.save({"a": 1}, path, _use_new_zipfile_serialization=False), "not a checkpoint"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_other_files_are_named(kind: str, tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "bad.pt"
    make, said = BROKEN[kind]
    make(path, saved.read_bytes())
    with pytest.raises(CheckpointError, match=said) as raised:
        load_model(path)
    assert str(path) in str(raised.value)
    assert raised.value.fix


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not found") as raised:
        load_model(tmp_path / "none.pt")
    assert "none.pt" in str(raised.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_pickle_is_an_error_of_ours_or_harmless(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "changed.pt"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:  # zipped anew, so that no checksum gives it away
        for entry in old.infolist():
            content = bytearray(old.read(entry))
            if entry.filename.endswith("data.pkl"):
                for _ in range(data.draw(st.integers(1, 3))):
                    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            new.writestr(entry.filename, bytes(content))
    _load_or_refuse(path)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_an_error_of_ours_or_harmless(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(saved.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "changed.pt"
    path.write_bytes(bytes(raw[: data.draw(st.sampled_from([len(raw), position + 1]))]))
    _load_or_refuse(path)


def _load_or_refuse(path: Path) -> None:
    try:
        loaded = load_model(path)
    except ModelError as error:
        assert path.name in str(error)  # noqa: PT017
    else:
        assert isinstance(loaded.module, nn.Module)


# ------------------------------------------------------------------------------------------------------- files that attack


class Call:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> Any:
        return self.made


def code(marker: Path) -> str:
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def _builder(marker: Path) -> Any:
    from ultralytics.nn.tasks import DetectionModel

    return Call(DetectionModel, tiny_yaml(activation=code(marker)))


ATTACKS = {
    "os.system": lambda marker: Call(os.system, f"touch {marker}"),
    "eval": lambda marker: Call(eval, code(marker)),
    "exec": lambda marker: Call(exec, code(marker)),
    "subprocess": lambda marker: Call(subprocess.check_call, ["touch", str(marker)]),
    "file write": lambda marker: Call(Path.touch, Path(marker)),
    "constructor": _builder,
    "getattr": lambda marker: Call(getattr, OrderedDict(), "popitem"),
    "import": lambda marker: Call(__import__, "antigravity"),
    "torch hub": lambda marker: Call(torch.hub.load, "x/y", "z"),
    "torch.load": lambda marker: Call(torch.load, str(marker)),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("where", ["model", "beside", "bare 0", "bare 2", "bare 4"])
def test_nothing_in_the_file_is_run(attack: str, where: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    payload = ATTACKS[attack](marker)
    if where.startswith("bare"):
        path.write_bytes(pickle.dumps({"model": payload}, protocol=int(where[-1])))
    elif where == "model":
        write(path, model=payload)
    else:
        write(path, model=tiny_model(), optimizer=payload)
    with pytest.raises(UnsafeCheckpointError) as raised:
        load_model(path)
    assert not marker.exists()
    assert "evil.pt" in str(raised.value)
    assert raised.value.fix


def test_the_error_names_what_was_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "evil.pt", model=Call(os.system, "true"))
    with pytest.raises(UnsafeCheckpointError, match=r"(posix|nt)\.system"):
        load_model(path)


def test_numpy_objects_are_refused(tmp_path: Path) -> None:
    scalar = np.float64(0).__reduce__()[0]
    path = write(tmp_path / "a.pt", model=Call(scalar, np.dtype("O"), b"x"))
    with pytest.raises(UnsafeCheckpointError, match="NumPy scalar"):
        load_model(path)


def _shadow(module: Any) -> None:
    vars(module.model[0])["forward"] = module.model[1]


def _foreign_forward(module: Any) -> None:
    vars(module.model[0])["forward"] = module.model[1].forward_fuse


def _hook(module: Any) -> None:
    module.model[0]._forward_hooks[0] = OrderedDict


def _callable_attribute(module: Any) -> None:
    module.model[0].note = [torch._utils._rebuild_tensor_v2]


def _activation(module: Any) -> None:
    module.yaml["activation"] = "__import__('os').system('true')"


def _layer(module: Any) -> None:
    module.yaml["head"][0] = [-1, 1, "check_requirements", ["some-package"]]


@pytest.mark.parametrize("change", [_shadow, _foreign_forward, _hook, _callable_attribute, _activation, _layer])
def test_attributes_that_could_act_are_refused(change: Any, tmp_path: Path) -> None:
    module = tiny_model()
    change(module)
    path = write(tmp_path / "a.pt", model=module)
    with pytest.raises(UnsafeCheckpointError, match=r"a\.pt"):
        load_model(path)


def test_a_compressed_checkpoint_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(UnsafeCheckpointError, match="compressed"):
        load_model(path)


def test_a_second_pickle_of_the_same_name_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.pt"
    path.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", pickle.dumps(Call(os.system, "true"), protocol=2))
    with pytest.raises(UnsafeCheckpointError, match="two files"):
        load_model(path)


# ------------------------------------------------------------------------------------------------------------ other tasks


def test_a_segmentation_model_is_named(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import SegmentationModel

    config = tiny_yaml()
    config["head"][-1] = [[9, 6], 1, "Segment", ["nc", 8, 16]]
    path = write(tmp_path / "seg.pt", model=SegmentationModel(config, nc=3, verbose=False))
    with pytest.raises(CheckpointError, match="a segmentation model"):
        load_model(path)


def test_a_classification_model_is_named(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import ClassificationModel

    config = tiny_yaml()
    config["head"] = [[-1, 1, "Classify", ["nc"]]]
    path = write(tmp_path / "cls.pt", model=ClassificationModel(config, nc=3, verbose=False))
    with pytest.raises(CheckpointError, match="a classification model"):
        load_model(path)


def test_a_yolov5_checkpoint_is_named(tmp_path: Path) -> None:
    raw = b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01cmodels.yolo\nDetectionModel\nq\x02s."
    path = tmp_path / "v5.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", raw)
        archive.writestr("archive/version", "3\n")
    with pytest.raises(CheckpointError, match="yolov5"):
        load_model(path)


def test_names_must_fit_the_outputs(tmp_path: Path) -> None:
    module = tiny_model()
    module.names = {0: "one"}
    with pytest.raises(CheckpointError, match="class names"):
        load_model(write(tmp_path / "a.pt", model=module))


# ------------------------------------------------------------------------------------------------------------------- YAML


def yaml_file(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(tiny_yaml(**changes)))  # JSON is YAML
    return path


def test_a_fresh_model_from_yaml(tmp_path: Path) -> None:
    path = yaml_file(tmp_path / "tiny.yaml")
    first, second = load_model(path), load_model(path)
    assert torch.equal(outputs(first.module), outputs(second.module))
    assert outputs(load_model(path, nc=5).module).shape[1] == 9
    assert (first.imgsz, len(first.names)) == (None, 3)


def test_the_scale_letter_is_read_from_the_name(tmp_path: Path) -> None:
    yaml_file(tmp_path / "yolov8.yaml", scales={"n": [1.0, 1.0, 64], "s": [1.0, 2.0, 64]})
    small, large = (sum(p.numel() for p in load_model(tmp_path / f"yolov8{s}.yaml").module.parameters()) for s in "ns")
    assert large > 2 * small
    with pytest.raises(CheckpointError, match="none was chosen"):
        load_model(tmp_path / "yolov8.yaml")


def test_a_shipped_description_is_found_by_its_bare_name() -> None:
    assert outputs(load_model(Path("yolo11n.yaml"), nc=2).module).shape[1] == 6


@pytest.mark.parametrize("activation", ["nn.ReLU()", "torch.nn.LeakyReLU(0.1)", "nn.ReLU(inplace=True)"])
def test_plain_activations_are_allowed(activation: str, tmp_path: Path) -> None:
    assert load_model(yaml_file(tmp_path / "a.yaml", activation=activation)).stride == 16


@pytest.mark.parametrize(
    "activation",
    ["__import__('os').system('true')", "nn.ReLU(print(1))", "nn.ReLU", "torch.nn.init.eye_(1)", "nn.Module.mro()",
     "os.nn.ReLU()", "nn.ReLU(**{})", "nn.functional.relu(1)", "[nn.ReLU() for _ in (1,)][0]", "nn.parameter.Parameter()"],
)  # fmt: skip
def test_other_activations_are_refused(activation: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeCheckpointError, match="activation") as raised:
        load_model(yaml_file(tmp_path / "a.yaml", activation=activation))
    assert activation in str(raised.value)


@pytest.mark.parametrize("layer", ["check_requirements", "torch_load", "nn.init", "nn.functional.relu", "torchvision.ops.nms",
                                   "TorchVision", "__import__", "attempt_download_asset"])  # fmt: skip
def test_only_layers_may_be_named(layer: str, tmp_path: Path) -> None:
    config = tiny_yaml()
    config["backbone"][1][2] = layer
    with pytest.raises(UnsafeCheckpointError, match="not a layer"):
        load_model(yaml_file(tmp_path / "a.yaml", **config))


def test_yaml_tags_are_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("backbone: !!python/object/apply:os.system ['touch x']\n")
    with pytest.raises(CheckpointError, match="not valid YAML"):
        load_model(path)


@pytest.mark.parametrize(
    ("text", "said"), [("names: [a]\ntrain: x\n", "no backbone"), ("- 1\n", "not a mapping"), ("a: [", "valid YAML")]
)
def test_yaml_that_is_not_a_model(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=said):
        load_model(path)


def test_rows_that_do_not_fit_are_an_error_of_ours(tmp_path: Path) -> None:
    config = tiny_yaml()
    config["backbone"][2][3] = ["x", "y"]
    with pytest.raises(CheckpointError, match="cannot build"):
        load_model(yaml_file(tmp_path / "a.yaml", **config))


# ----------------------------------------------------------------------------------------------------------------- saving


class Wrapped(nn.Conv2d):
    """A layer that exists only here."""


def test_only_stock_layers_are_saved(tmp_path: Path) -> None:
    module = tiny_model()
    module.model[0].conv = Wrapped(3, 8, 3, 2, 1, bias=False)
    with pytest.raises(CheckpointError, match=r"model\.0\.conv is a .*Wrapped"):
        save_checkpoint(tmp_path / "a.pt", module, names=NAMES, train_args={}, extra={})
    assert not (tmp_path / "a.pt").exists()


def test_a_full_disk_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError):
        save_checkpoint(saved, tiny_model(seed=9), names=NAMES, train_args={}, extra={})
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


PLAIN_ULTRALYTICS = """
import sys
sys.modules["toolchain"] = None  # as on a machine where this package is not installed
from ultralytics import YOLO
model = YOLO(sys.argv[1])
assert model.task == "detect", model.task
"""


def plain_ultralytics(script: str, *arguments: object, cwd: Path) -> str:
    env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_CONFIG_DIR": str(cwd), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-I", "-c", PLAIN_ULTRALYTICS + script, *map(str, arguments)], cwd=cwd, env=env,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_plain_ultralytics_loads_and_predicts(saved: Path, tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path / "data")
    text = plain_ultralytics(
        "import torch\n"
        "found = model.predict(sys.argv[2], imgsz=64, conf=0.0001, save=False, verbose=False)\n"
        "out = model.model(torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64))[0]\n"
        "print('RESULT', len(found), model.names[0], float(out.double().sum()))\n",
        saved, data.parent / "images" / "val" / "0.png", cwd=tmp_path,
    )  # fmt: skip
    _, count, name, total = text[text.index("RESULT") :].split()
    assert (count, name) == ("1", "red")
    fused = load_model(saved).module.fuse(verbose=False)  # ultralytics fuses the network in place when it predicts
    assert float(total) == pytest.approx(float(outputs(fused).double().sum()), rel=1e-4)


@pytest.mark.slow
def test_plain_ultralytics_validates_and_exports(saved: Path, tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path / "data")
    data.write_text(f"path: {data.parent}\n" + data.read_text())
    text = plain_ultralytics(
        "scores = model.val(data=sys.argv[2], imgsz=64, plots=False, workers=0, verbose=False, project=sys.argv[3])\n"
        "assert 0 <= scores.box.map <= 1\n"
        "print('RESULT', model.export(format='onnx', imgsz=64, simplify=False))\n",
        saved, data, tmp_path, cwd=tmp_path,
    )  # fmt: skip
    onnx_file = Path(text[text.index("RESULT") :].split()[1])
    assert onnx_file.stat().st_size > 10_000


def test_extra_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not plain data"):
        save_checkpoint(tmp_path / "a.pt", tiny_model(), names=NAMES, train_args={}, extra={"loop": _loop()})


def _loop() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


def test_importing_does_not_touch_the_users_settings(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    script = "import toolchain.yolo.checkpoint; import ultralytics.utils as u; print(u.SETTINGS_FILE, u.ONLINE)"
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / ".cache/edge-toolchain/Ultralytics/settings.json"), "False"]
    assert not (tmp_path / ".config" / "Ultralytics").exists()


def test_downloads_are_refused_at_once() -> None:
    from ultralytics.utils import checks, downloads

    from toolchain.yolo.offline import stay_offline

    stay_offline()
    with pytest.raises(ConnectionError, match="never downloads"):
        downloads.safe_download("https://example.com/yolov8n.pt")
    assert checks.check_font("NoSuchFont.ttf") is None
    assert downloads.attempt_download_asset("yolov8n.pt") == "yolov8n.pt"


def test_reading_needs_no_file_system_trick(saved: Path) -> None:
    """The same bytes are hashed, checked and loaded."""
    import hashlib

    assert load_model(saved).sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert torch.load(io.BytesIO(saved.read_bytes()), weights_only=False)["edge_toolchain"] == {"kept": [1, 2]}
