"""A run under way, and everything that is checked before its first long stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolchain import progress, requests
from toolchain.config import RunConfig
from toolchain.device.engine_precision import in_precision
from toolchain.device.runtimes import check_there
from toolchain.device.settings import On
from toolchain.device.target import load_target
from toolchain.errors import RunFolderError
from toolchain.pruning.prune import check_imgsz, check_request
from toolchain.quantization.recipe import AUTO, load_recipe
from toolchain.stage import Stage, Stages, read_json, write_json
from toolchain.yolo.dataset import load_dataset


@dataclass(frozen=True)
class Job:
    """A run under way: its settings, its stages in the order they were done, and what INT8 was refused for, if it was."""

    config: RunConfig
    stages: Stages
    data_sha256: str
    done: list[Stage]
    command: str

    def stage(
        self, name: str, work: Any, *, inputs: dict[str, Any], params: dict[str, Any], outputs: tuple[str, ...] = ()
    ) -> Stage:
        """Run or reuse one stage and say which."""
        stage = self.stages.run(name, work, inputs=inputs, params={"imgsz": self.config.imgsz, **params}, keep_outputs=outputs)
        self.done.append(stage)
        progress.note(f"{'✓ kept ' if stage.reused else '✓ done '} {name:<10} {stage.duration_s:7.1f} s")
        return stage

    def at(self, imgsz: int) -> Job:
        """The same run at another picture size, where a budget has chosen one."""
        return replace(self, config=self.config.model_copy(update={"imgsz": imgsz}))

    @property
    def cut_model(self) -> Path:
        """The network right after its last cut, before its fine-tune."""
        steps = self.config.prune.steps
        return self.stages.root / ("cut" if steps == 1 else f"cut-{steps}") / "pruned.pt"

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-adds of one picture, dense and pruned."""
        cuts = [stage for stage in self.done if stage.name.startswith("cut")]
        return cuts[0].result["macs_dense"], cuts[-1].result["macs"]

    @property
    def on(self) -> On:
        """Where the engines run."""
        return _on(self.config)

    @property
    def engine_params(self) -> dict[str, Any]:
        """What an engine's file and speed depend on, beside graph, host and target."""
        on = self.on  # made anew, by the target's file, each time it is asked for
        return {"runtime": on.runtime, "provider": on.provider, "threads": on.threads, "python": on.python}

    @property
    def work(self) -> Path:
        """Prepared picture sets, shared by the stages."""
        return self.config.out / "work"


def start(config: RunConfig, command: str = "") -> Job:
    """Check everything that can be checked before the first long stage."""
    from toolchain.yolo.checkpoint import load_model

    loaded = load_model(config.model)
    check_imgsz(config.imgsz, loaded.stride)
    dataset = load_dataset(config.data, class_names=loaded.names)
    dataset.images(config.split)
    align = load_target(config.target).channel_alignment
    check_request(loaded, requests.request_of(config.prune, config.imgsz, align, config.seed))
    requests.check_budget(config)
    requests.check_training(config.train, config.seed)
    if config.int8.enabled:
        requests.check_qat(config.int8.qat, config.seed)
    if config.int8.enabled and config.int8.recipe not in (None, AUTO):
        load_recipe(config.int8.recipe)
    identity = {"model_sha256": loaded.sha256, "data_sha256": dataset.sha256, "imgsz": config.imgsz}
    marker = config.out / "run.json"
    if marker.exists():
        before = read_json(marker)["identity"]
        if before != identity:
            changed = ", ".join(key for key in identity if before.get(key) != identity[key])
            raise RunFolderError(
                "this run folder was made with other inputs", got=f"{config.out}: {changed} differ", fix="another --out"
            )
    if not (config.out / "stages" / "bench").exists():
        check_there(_on(config))  # hours of training must not end at a host that was never there
    stages = Stages(config.out / "stages")
    write_json(marker, {"identity": identity, "command": command, "config": config.model_dump(mode="json")})
    return Job(config, stages, dataset.sha256, [], command)


def _on(config: RunConfig) -> On:
    on = config.bench.on(config.host, config.target)
    return in_precision(on, config.select.precision) if config.budget else on
